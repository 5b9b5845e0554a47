"""The beginning and the end of jobs: every job ends with exactly one event, however it ends."""

from __future__ import annotations

import logging
from typing import Final

from whisperd.audio import elapsed_within
from whisperd.clock import now_rfc3339
from whisperd.jobs.job import Job
from whisperd.jobs.segments import Transcript
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import (
    Event,
    JobStarted,
    TranscriptionCancelled,
    TranscriptionCompleted,
    TranscriptionFailed,
)

__all__ = ["begin", "cancelled_on_request", "conclude", "retry_hint", "stopped", "stopping", "suspended"]

log = logging.getLogger(__name__)

_HARMLESS_SKIPPED: Final = 1
"""A recording that was cut off has one damaged packet: its last."""


def begin(job: Job, language: str | None, duration_s: float | None) -> Event:
    """Mark a job as running, and return its event; `duration_s` is the length of the recording."""
    job.status, job.started = "running", now_rfc3339()
    return JobStarted(id=job.id, runtime=job.runtime, language=language, duration=duration_s)


def conclude(job: Job, error: WhisperdError | None) -> Event:
    """End a job: completed if it has a transcript, else cancelled, or failed with this error.

    Returns the one event that reports it.
    """
    job.ended = now_rfc3339()
    if job.transcript is not None:
        return _completed(job, job.transcript)
    if error is None or job.cancelled_by is not None:
        return _cancelled(job)
    return _failed(job, error)


def cancelled_on_request(job: Job) -> WhisperdError:
    """Return the error of a job that a client cancelled."""
    return WhisperdError(
        "job.cancelled", "The job was cancelled.", f"{retry_hint(job)} if you still need it."
    )


def retry_hint(job: Job) -> str:
    """Return how to retry an unfinished job: the beginning of a sentence, without a period."""
    return (
        "Send the recording again"
        if job.input.is_from_client
        else f"Retry it with `whisperctl jobs retry {job.id}`"
    )


def suspended() -> WhisperdError:
    """Return the error of a job that stops here and resumes in the next daemon."""
    return WhisperdError(
        "daemon.stopping",
        "The daemon is stopping; the job resumes when the daemon starts again.",
        "Start the daemon with `whisperctl daemon start`.",
    )


def stopped(job: Job) -> WhisperdError:
    """Return the error of a job that ends with its daemon; clients may read it when the next daemon runs."""
    return WhisperdError(
        "daemon.stopping", "The daemon stopped before the job was finished.", f"{retry_hint(job)}."
    )


def stopping() -> WhisperdError:
    """Return the error for a job submitted while the daemon is stopping."""
    return WhisperdError(
        "daemon.stopping",
        "The daemon is stopping.",
        "Start the daemon again with `whisperctl daemon start`, then submit the job again.",
    )


def _completed(job: Job, transcript: Transcript) -> Event:
    if transcript.skipped > _HARMLESS_SKIPPED:
        log.warning("job %s: skipped %d damaged packets", job.id, transcript.skipped)
        job.warn(_damaged(job, transcript.skipped))
    job.status, job.elapsed_s = "completed", transcript.elapsed
    how = " (cached)" if job.is_cached else ""
    total_s = elapsed_within(job.options.clips, transcript.duration)
    log.info("job %s completed: %.1f s of audio in %.2f s%s", job.id, total_s, transcript.elapsed, how)
    speed = total_s / transcript.elapsed if transcript.elapsed else 0.0
    return TranscriptionCompleted(
        id=job.id,
        text=transcript.text,
        language=transcript.language,
        duration=transcript.duration,
        total=round(total_s, 3),
        elapsed=transcript.elapsed,
        speed=round(speed, 2),
        segments=len(transcript.segments),
        runtime=transcript.runtime,
        cached=job.is_cached,
        warnings=job.warnings,
    )


def _damaged(job: Job, skipped: int) -> WhisperdError:
    path = job.input.path or "The recording"
    return WhisperdError(
        "audio.corrupt",
        f"{path} is damaged: {skipped} packets cannot be decoded, so the transcript may lack words.",
        "If words are missing, download or export the file again.",
        {"path": path, "skipped": skipped},
    )


def _cancelled(job: Job) -> Event:
    job.status, job.error = "cancelled", job.cancelled_by or cancelled_on_request(job)
    log.info("job %s cancelled: %s", job.id, job.error.code)
    return TranscriptionCancelled(id=job.id, error=job.error.to_wire())


def _failed(job: Job, error: WhisperdError) -> Event:
    job.status, job.error = "failed", error
    log.warning("job %s failed: %s", job.id, error.code)
    return TranscriptionFailed(id=job.id, error=error.to_wire())
