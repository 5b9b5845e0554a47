"""A job and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import msgspec

from whisperd.clock import now_rfc3339
from whisperd.jobs.audio_buffer import AudioBuffer
from whisperd.jobs.identity import FileStamp
from whisperd.jobs.options import JobOptions
from whisperd.jobs.scheduler import Priority
from whisperd.jobs.segments import Transcript
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.store import Ticket

__all__ = [
    "Job",
    "JobInput",
    "JobStatus",
    "JobView",
    "Source",
    "hide_upload_path",
    "unexpected_error",
]

JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]


class JobInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is transcribed: a file of the user's, an upload, or what is pushed while it is spoken."""

    path: str | None = None
    upload: str | None = None
    stream: bool = False

    @property
    def is_from_client(self) -> bool:
        """Whether its client has sent it, so that it is gone with the job."""
        return self.path is None


@dataclass(frozen=True)
class Source:
    """Where the audio of a job comes from."""

    shown: JobInput
    """As the user named it."""
    path: str = ""
    """The file to decode; a live job has none."""
    stamp: FileStamp | None = None
    """What the file is now."""
    content_hash: str | None = None
    """The SHA-256 of the file with this stamp, where somebody has found it out already."""
    audio_buffer: AudioBuffer | None = None
    """Of a live job: where its audio comes in."""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is shown. `progress` is in percent, `speed` a multiple of real time."""

    id: str
    status: JobStatus
    detail: str | None
    """What a queued job waits for, if that is its runtime: `downloading base 40 %`, `loading`."""
    input: JobInput
    options: JobOptions
    runtime: str
    priority: Priority
    created: str
    started: str | None
    ended: str | None
    progress: float | None
    speed: float | None
    error: dict[str, Any] | None
    warnings: tuple[dict[str, Any], ...]
    text: str | None
    detached: bool
    """Whether it outlives its client, and the daemon."""
    cached: bool
    """Whether a transcript that was kept has answered it."""


@dataclass(eq=False)
class Job:
    """One transcription of one input. Only this room changes it."""

    id: str
    path: str
    """The file to decode, which for an upload is not what the user named; a live job has none."""
    input: JobInput
    options: JobOptions
    runtime: str
    """The name of the runtime, as it was when the job was taken."""
    runtime_id: str | None = None
    """None for a runtime that was made for once."""
    model: str = ""
    """The runtime's model, as it was then."""
    is_detached: bool = False
    """Whether it goes on without its client, and in the next daemon."""
    is_resumed: bool = False
    """Whether an earlier run of it may have finished some windows."""
    is_at_work: bool = False
    """Whether its windows are being computed."""
    interruptions: int = 0
    """How often a daemon has ended under its work, without having been told to."""
    finished_at_begin: int = 0
    """Windows of it that were finished when the work on it began last."""
    is_cached: bool = False
    """Whether a transcript that was kept has answered it."""
    stamp: FileStamp | None = None
    """What the file was when it was taken, or when the work on it began."""
    inode: int | None = None
    """Of the file when all of it was read, where that was in this daemon."""
    content_hash: str | None = None
    """The SHA-256 of the file, where it is known."""
    recipe: str | None = None
    """The digest of the recipe by which its windows are made, once that is known."""
    answered_by: str | None = None
    """The key of the kept transcript that has answered it."""
    waits_for: Callable[[], str | None] = lambda: None
    """What its runtime is doing before it can be used."""
    status: JobStatus = "queued"
    created: str = field(default_factory=now_rfc3339)
    started: str | None = None
    ended: str | None = None
    duration_s: float | None = None
    elapsed_s: float | None = None
    """How long the work took, once it is completed."""
    done_s: float = 0.0
    speed: float | None = None
    language: str | None = None
    error: WhisperdError | None = None
    warnings: tuple[dict[str, Any], ...] = ()
    """What may be wrong with its text though it is completed: errors as they are on the wire."""
    transcript: Transcript | None = None
    """Its result; once it is kept in the data base, it may be only there."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)
    """Set when the job has ended, one way or another."""
    taken: Ticket | None = None
    """Its beginning, as it is being saved."""
    end: Ticket | None = None
    """Its end, as it is being saved."""
    cancelled_by: WhisperdError | None = None
    audio_buffer: AudioBuffer | None = None
    """Of a live job: where its audio comes in."""
    is_suspended: bool = False
    """Whether it ends here only to go on in the next daemon."""

    @property
    def survives(self) -> bool:
        """Whether it goes on in the next daemon when this one ends."""
        return self.is_detached and self.cancelled_by is None

    @property
    def progress(self) -> float | None:
        """Percent of the audio that is done; None while its length is not known."""
        if self.status == "completed":
            return 100.0
        if not self.duration_s:
            return None
        return round(min(100.0, 100 * self.done_s / self.duration_s), 1)

    def view(self, *, with_text: bool = True, transcript: Transcript | None = None) -> JobView:
        """What is told of it. A list leaves the text out; a transcript that is only kept has to be given."""
        transcript = self.transcript or transcript
        return JobView(
            id=self.id,
            status=self.status,
            detail=self.waits_for() if self.status == "queued" else None,
            input=self.input,
            options=self.options,
            runtime=self.runtime,
            priority=self.options.priority,
            created=self.created,
            started=self.started,
            ended=self.ended,
            progress=self.progress,
            speed=self.speed,
            error=self.error.to_wire() if self.error else None,
            warnings=self.warnings,
            text=transcript.text if transcript and with_text else None,
            detached=self.is_detached,
            cached=self.is_cached,
        )


def hide_upload_path(job: Job, error: WhisperdError) -> WhisperdError:
    """The same error; the file into which an upload was put is nothing that its sender knows."""
    path = sendable(job.path)
    if job.input.upload is None:
        return error
    message = error.message.replace(path, "the recording that was sent")
    data = {name: None if value == path else value for name, value in error.data.items()}
    return WhisperdError(error.code, message[:1].upper() + message[1:], error.fix, data)


def unexpected_error() -> WhisperdError:
    """What is told of a job that failed for no reason of its own."""
    return WhisperdError(
        "internal.error",
        "The job failed because of a bug in whisperd.",
        "Please report it, with the output of `whisperctl daemon logs`.",
    )
