"""Owns all jobs and their state, from submission until they are forgotten."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence

import anyio
import msgspec
from anyio.abc import TaskGroup

from whisperd.audio import DecoderPool
from whisperd.clock import rfc3339_ago
from whisperd.jobs.executor import JobExecutor
from whisperd.jobs.history import JobHistory
from whisperd.jobs.identity import FileStamp
from whisperd.jobs.job import Job, Source, hide_upload_path
from whisperd.jobs.journal import job_of, record_of
from whisperd.jobs.keeper import JobKeeper
from whisperd.jobs.lifecycle import cancelled_on_request, conclude, stopped, stopping, suspended
from whisperd.jobs.live import check_live_options
from whisperd.jobs.options import JobOptions, check_against_model
from whisperd.jobs.pace import Pace
from whisperd.jobs.scheduler import Priority
from whisperd.jobs.segments import Transcript
from whisperd.rpc.errors import WhisperdError, unexpected_error
from whisperd.rpc.events import Event, JobQueued
from whisperd.runtimes import Lease, LoadedRuntime
from whisperd.settings import Settings
from whisperd.store import Ticket, Writing

__all__ = ["JobManager"]

log = logging.getLogger(__name__)

TRANSCRIPTS_IN_MEMORY = 32
"""Transcripts kept in memory: those of the last jobs, which are soon asked for; the database has the rest."""
AUDIO_IN_MEMORY_S = 3600.0
"""The most audio whose transcripts are kept in memory: with word times, those of an hour take 3 MB."""

LIVE_JOBS_AT_ONCE = 8
"""Limit of live jobs. Each lasts as long as someone speaks, has its own decoder, and takes no job's slot."""


class JobManager:
    """Accepts, runs and remembers jobs."""

    def __init__(
        self,
        tasks: TaskGroup,
        decoders: DecoderPool,
        settings: Callable[[], Settings],
        publish: Callable[[Event], None],
        forget: Callable[[str], None],
        keeper: JobKeeper,
        active_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._tasks = tasks
        self._settings = settings
        self._publish = publish
        self._forget = forget
        self._active_changed = active_changed
        self._keeper = keeper
        self._active: dict[str, Job] = {}
        self._history = JobHistory()
        self._in_memory: dict[str, Job] = {}
        """The last jobs, whose transcripts are in memory."""
        self._executor = JobExecutor(tasks, decoders, settings, publish, keeper)
        self._pace = Pace()
        self._is_stopping = False

    def submit(
        self,
        source: Source,
        options: JobOptions,
        lease: Lease,
        languages: Sequence[str] | None = None,
        *,
        is_detached: bool = False,
        also: Writing | None = None,
    ) -> Job:
        """Submit a job; it starts as soon as there is room.

        The job owns the lease from now on, and releases it when it ends. `languages` are those of its model,
        if known. Raises `WhisperdError` for invalid options, or if no more jobs are accepted. The job is
        safely in the journal once `acknowledged` has returned, together with what `also` writes.
        """
        if languages is not None:
            check_against_model(options, languages, lease.model)
        self._check_room()
        if source.audio_buffer is not None:
            options = check_live_options(options)
            self._check_live_room()
        job = Job(
            id=secrets.token_hex(5),
            path=source.path,
            input=source.shown,
            options=options,
            runtime=lease.name,
            runtime_id=lease.runtime.id if lease.runtime.is_saved else None,
            model=lease.model,
            is_detached=is_detached,
            stamp=source.stamp,
            content_hash=source.content_hash,
            audio_buffer=source.audio_buffer,
        )
        self._begin(job, lease, also)
        return job

    async def acknowledged(self, job: Job) -> None:
        """Wait until a submitted job is in the journal.

        If a detached job cannot be saved, cancels it and raises `WhisperdError`. A job that ends with its
        client does not need the journal.
        """
        if job.submission is None or job.over.is_set():
            return
        try:
            await job.submission.saved()
        except WhisperdError as error:
            if job.is_detached:
                job.is_detached = False  # the next daemon cannot know of it
                self.cancel(job, error.copy())
                raise

    def restore(self, jobs: Iterable[Job]) -> None:
        """Remember jobs that ended: those of an earlier daemon, and those that could not be deleted."""
        for job in jobs:
            self._history.add(job)
            self._keep_in_memory(job)
        self._forget_excess()

    def resume(self, job: Job, lease: Lease, also: Writing | None = None) -> None:
        """Resume a job of an earlier daemon, or one that failed or was cancelled.

        The job owns the lease from now on, and releases it when it ends; `also` is as in `submit`.
        """
        self._history.remove(job.id)
        self._forget(job.id)  # its events start over
        job.runtime, job.model, job.is_resumed = lease.name, lease.model, True
        self._begin(job, lease, also)

    def retry(self, job_id: str, lease: Lease, stamp: FileStamp, also: Writing | None = None) -> Job:
        """Retry a failed or cancelled job, detached; `stamp` is the current one of its file.

        Reuses its finished windows unless the file has changed. The lease and `also` are as in `resume`.
        Raises the errors of `to_retry`: another client may have retried it first.
        """
        record = msgspec.structs.replace(
            record_of(self.to_retry(job_id)),
            status="queued",
            ended=None,
            error=None,
            is_detached=True,
            is_cached=False,
        )
        again = job_of(record)
        if stamp != again.stamp:
            self._keeper.start_over(again, stamp)
        self.resume(again, lease, also)
        return again

    def cancel_unfinished(self, job: Job, reason: WhisperdError) -> None:
        """End a job of an earlier daemon that must not resume."""
        job.cancelled_by = reason
        self._active[job.id] = job
        self._end(job, None)

    def fail(self, job: Job, error: WhisperdError) -> None:
        """Fail a job of an earlier daemon that cannot resume."""
        self._active[job.id] = job
        self._end(job, error)

    def to_retry(self, job_id: str) -> Job:
        """Return a job that can be retried.

        Raises `job.unknown`, `job.not_retryable`, or that no more jobs are accepted.
        """
        job = self.get(job_id)
        if job.status not in ("failed", "cancelled"):
            raise WhisperdError(
                "job.not_retryable",
                f"The job {job.id} is {job.status}.",
                "Only failed and cancelled jobs can be retried; submit its file as a new job.",
            )
        self._check_room()
        return job

    def get(self, job_id: str) -> Job:
        """Return a job by id. Raises `job.unknown`."""
        if job := self._active.get(job_id) or self._history.get(job_id):
            return job
        raise WhisperdError(
            "job.unknown",
            f"There is no job {job_id!r}.",
            "List the known jobs with `whisperctl jobs list`.",
        )

    def remembered(self) -> list[Job]:
        """Return all remembered jobs, oldest first."""
        return sorted([*self._history, *self._active.values()], key=lambda job: job.created)

    def active(self) -> list[Job]:
        """Return all waiting and running jobs, oldest first."""
        return list(self._active.values())

    def hold(self, priorities: frozenset[Priority]) -> None:
        """Hold jobs of these classes until mains power is back, and release all others."""
        self._executor.hold(priorities)

    def waiting_windows(self, runtime: LoadedRuntime) -> int:
        """Return how many windows of all jobs wait for a loaded runtime."""
        return self._executor.waiting_windows(runtime)

    def cancel(self, job: Job, reason: WhisperdError | None = None) -> None:
        """Cancel a job. Harmless if it has ended."""
        if not job.over.is_set() and job.cancelled_by is None:
            job.cancelled_by = reason or cancelled_on_request(job)
            job.scope.cancel()

    async def end_saved(self, job: Job) -> None:
        """Wait until a job's end is on disk. Raises `WhisperdError` if that fails; call again to retry.

        A job that ends with its client does not need the journal.
        """
        if job.is_detached and job.end is not None:
            self._retry_failed_writes([job])
            await job.end.saved()

    async def transcript(self, job: Job) -> Transcript | None:
        """Return the result of a job while it is stored."""
        if job.transcript is not None or job.status != "completed":
            return job.transcript
        return await self._keeper.transcripts.of_job(job.id)

    def ended_before(self, moment: str | None) -> list[str]:
        """Return the ids of jobs that ended before a moment (RFC 3339; None: now)."""
        return self._history.before(moment)

    def forget(self, jobs: Sequence[str]) -> tuple[list[Job], Ticket]:
        """Forget ended jobs, and return them with the ticket of their deletion. Unfinished jobs stay."""
        forgotten = [job for job_id in jobs if (job := self._history.remove(job_id))]
        for job in forgotten:
            self._in_memory.pop(job.id, None)  # an erased text must not stay in memory
            self._forget(job.id)
        gone = self._keeper.forget([job.id for job in forgotten])
        for job in forgotten:
            if job.end is not None and not job.end.is_saved:
                job.end = gone  # nothing else will save its end
        return forgotten, gone

    def retire(self, clock_lead_s: float = 0.0) -> None:
        """Forget the ended jobs that exceed the age or the number in the settings.

        Also retries failed writes of the others. `clock_lead_s` is how far the clock may be ahead.
        """
        keep_s = self._settings().jobs.keep_days * 86_400
        self.forget(self.ended_before(rfc3339_ago(keep_s + clock_lead_s)))
        self._forget_excess()
        self._retry_failed_writes(self._history)

    async def drain(self, grace_s: float) -> int:
        """Accept no more jobs, let the active ones finish within `grace_s`, then cancel them.

        Returns how many had to be cancelled. Does not wait for detached jobs: they resume in the next daemon.
        """
        self._is_stopping = True
        for job in self.active():
            if job.audio_buffer is not None:  # the audio so far is all there will be
                job.audio_buffer.end()
        with anyio.move_on_after(grace_s):
            for job in self.active():
                if not job.survives:
                    await job.over.wait()
        late = self.active()
        for job in late:
            self._stop(job)
        for job in late:
            await job.over.wait()
        self._retry_failed_writes(self._history)
        return sum(not job.is_suspended for job in late)

    def _begin(self, job: Job, lease: Lease, also: Writing | None = None) -> None:
        job.waits_for = lambda: "mains power" if self._executor.is_held(job) else lease.waits_for()
        position = len(self._active)
        self._active[job.id] = job
        job.submission = self._keeper.save(job, also)
        self._active_changed()
        self._publish(JobQueued(id=job.id, position=position))
        log.info("job %s queued: %s, %s", job.id, job.runtime, job.options.priority)
        self._tasks.start_soon(self._run, job, lease)

    def _stop(self, job: Job) -> None:
        """End a job because the daemon is stopping."""
        if job.over.is_set() or job.cancelled_by is not None:
            return
        job.is_suspended = job.survives
        if job.is_suspended:
            self._keeper.save_suspended(job)
        self.cancel(job, suspended() if job.is_suspended else stopped(job))

    def _check_room(self) -> None:
        if self._is_stopping:
            raise stopping()
        limit = self._settings().limits.max_jobs
        if len(self._active) >= limit:
            retry_after_s = self._pace.retry_after_s(time.monotonic())
            raise WhisperdError(
                "job.queue_full",
                f"{limit:,} jobs are already waiting or running.",
                f"Try again in {retry_after_s} seconds, or raise limits.max_jobs in the settings.",
                {"retry_after_s": retry_after_s, "max_jobs": limit},
            )

    def _check_live_room(self) -> None:
        if sum(job.audio_buffer is not None for job in self._active.values()) >= LIVE_JOBS_AT_ONCE:
            raise WhisperdError(
                "live.too_many",
                f"{LIVE_JOBS_AT_ONCE} live transcriptions are already running.",
                "Finish or cancel one of them; list them with `whisperctl jobs list`.",
            )

    async def _run(self, job: Job, lease: Lease) -> None:
        """Run a job, and end it in exactly one way."""
        error: WhisperdError | None = None
        try:
            with job.scope, lease:
                job.transcript = await self._executor.transcribe(job, lease)
        except anyio.get_cancelled_exc_class():  # all tasks are cancelled, not just this job
            self._stop(job)
            raise
        except WhisperdError as failure:
            error = hide_upload_path(job, failure.copy())
        except Exception as failure:
            log.exception("job %s failed unexpectedly", job.id)
            error = unexpected_error("The job failed", failure)
        finally:
            self._end(job, error)

    def _end(self, job: Job, error: WhisperdError | None) -> None:
        self._publish(conclude(job, error))
        if job.audio_buffer is not None:
            job.audio_buffer.close()
        del self._active[job.id]
        self._history.add(job)
        if not (job.is_suspended and job.transcript is None):
            job.end = self._keeper.save_end(job)
            self._keep_in_memory(job)
        job.over.set()
        job.waits_for = _nothing  # a remembered job must not keep its runtime alive
        self._pace.ended(time.monotonic())
        self._active_changed()
        self._forget_excess()

    def _forget_excess(self) -> None:
        """Forget ended jobs beyond the number of each status in the settings."""
        if jobs := self._history.beyond(self._settings().jobs.keep_count):
            self.forget(jobs)

    def _keep_in_memory(self, job: Job) -> None:
        """Keep the transcripts of the last jobs in memory, and drop older ones, which are in the database."""
        if job.transcript is None or not self._settings().jobs.keep_transcripts:
            return
        self._in_memory[job.id] = job
        room_s = AUDIO_IN_MEMORY_S
        for place, kept in enumerate(reversed(list(self._in_memory.values()))):
            room_s -= kept.transcript.duration if kept.transcript is not None else 0.0
            is_old = place >= TRANSCRIPTS_IN_MEMORY or room_s < 0
            if is_old and kept.end is not None and kept.end.is_saved:  # else this is the only copy
                kept.transcript = None
                del self._in_memory[kept.id]

    def _retry_failed_writes(self, jobs: Iterable[Job]) -> None:
        """Retry the failed writes of ended jobs: the disk may have room by now."""
        for job in jobs:
            if job.end is not None and job.end.has_failed:
                job.end = self._keeper.save_end(job)


def _nothing() -> None:
    """Return what an ended job waits for: nothing."""
