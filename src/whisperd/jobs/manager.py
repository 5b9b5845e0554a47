"""Every job there is, from being asked for to being forgotten. The one owner of their state."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskGroup

from whisperd.audio import DecodeParams, DecoderPool, open_regular_file
from whisperd.clock import now_rfc3339
from whisperd.jobs.dispatcher import Dispatcher
from whisperd.jobs.intake import Intake
from whisperd.jobs.job import Job, JobInput, Transcript, unexpected_error
from whisperd.jobs.live import LiveRun, check_live_options
from whisperd.jobs.options import JobOptions
from whisperd.jobs.run import JobRun, check_against_model
from whisperd.jobs.scheduler import Priority
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.rpc.events import (
    Event,
    JobQueued,
    TranscriptionCancelled,
    TranscriptionCompleted,
    TranscriptionFailed,
)
from whisperd.runtimes import Lease, LoadedRuntime
from whisperd.settings import Settings
from whisperd.threads import ANSWER_TIMEOUT_S, run_abandonable

__all__ = ["JobManager", "check_input", "check_path", "jobs_at_once"]

log = logging.getLogger(__name__)

INTERACTIVE_JOBS_AT_ONCE = 8
"""Interactive jobs are short, and somebody waits for each."""

LIVE_JOBS_AT_ONCE = 8
"""Live jobs last as long as somebody speaks, each with a decoder of its own. They take nobody's place."""


def jobs_at_once(settings: Settings) -> dict[Priority, int]:
    """How many jobs of each class run at the same time, each with a decoder of its own.

    No class takes a place of another: a folder of long files holds up nobody's single clip.
    """
    processes = settings.decoder.processes
    return {"interactive": INTERACTIVE_JOBS_AT_ONCE, "normal": processes, "bulk": processes}


class JobManager:
    """Takes jobs, runs them, remembers them."""

    def __init__(
        self,
        tasks: TaskGroup,
        decoders: Callable[[], DecoderPool],
        settings: Callable[[], Settings],
        publish: Callable[[Event], None],
        forget: Callable[[str], None],
        active_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._tasks = tasks
        self._decoders = decoders
        self._settings = settings
        self._publish = publish
        self._forget = forget
        self._tell_active_changed = active_changed
        self._active: dict[str, Job] = {}
        self._ended: dict[str, Job] = {}
        self._dispatchers: dict[LoadedRuntime, Dispatcher] = {}
        self._places = {
            priority: anyio.Semaphore(places) for priority, places in jobs_at_once(settings()).items()
        }
        self._is_stopping = False
        self._active_changed = anyio.Event()

    def submit(
        self,
        job_input: JobInput,
        path: str,
        options: JobOptions,
        lease: Lease,
        languages: Sequence[str] | None = None,
        intake: Intake | None = None,
    ) -> Job:
        """Take a job; it starts as soon as there is a place. `path` is the file to decode.

        The lease is the job's from now on, and ends with it. `languages` are those of its model, if they
        are known. With an `intake` it is a live job, of what comes in there. Raises `WhisperdError` for
        options that cannot be, or when no more jobs are taken.
        """
        if languages is not None:
            check_against_model(options, languages, lease.model)
        self._check_room()
        if intake is not None:
            options = check_live_options(options)
            self._check_live_room()
        job = Job(
            id=secrets.token_hex(5),
            path=path,
            input=job_input,
            options=options,
            runtime=lease.name,
            waits_for=lease.waits_for,
            intake=intake,
        )
        position = len(self._active)
        self._active[job.id] = job
        self._tell_active_changed()
        self._publish(JobQueued(id=job.id, position=position))
        log.info("job %s queued: %s, %s", job.id, job.runtime, options.priority)
        self._tasks.start_soon(self._run, job, lease)
        return job

    def get(self, job_id: str) -> Job:
        """The job. Raises `job.unknown`."""
        if job := self._active.get(job_id) or self._ended.get(job_id):
            return job
        raise WhisperdError(
            "job.unknown",
            f"There is no job {job_id!r}.",
            "`whisperctl jobs list` shows the jobs that are remembered.",
        )

    def remembered(self) -> list[Job]:
        """Every job that is remembered, the oldest first."""
        return sorted([*self._ended.values(), *self._active.values()], key=lambda job: job.created)

    def active(self) -> list[Job]:
        """Jobs that wait or run, the oldest first."""
        return list(self._active.values())

    def waiting_windows(self, runtime: LoadedRuntime) -> int:
        """How many windows of all jobs wait for a loaded runtime."""
        dispatcher = self._dispatchers.get(runtime)
        return dispatcher.waiting if dispatcher else 0

    def cancel(self, job: Job, reason: WhisperdError | None = None) -> None:
        """Cancel a job. Harmless when it is over."""
        if not job.over.is_set() and job.cancelled_by is None:
            job.cancelled_by = reason or _cancelled_on_request()
            job.scope.cancel()

    def clear(self, keep: int = 0) -> int:
        """Forget the jobs that are over, but for the last `keep`; returns how many."""
        forgotten = list(self._ended)[: max(0, len(self._ended) - keep)]
        for job_id in forgotten:
            del self._ended[job_id]
            self._forget(job_id)
        return len(forgotten)

    async def drain(self, grace_s: float) -> int:
        """Take no more jobs, let the active ones end within `grace_s`, then cancel them.

        Returns how many had to be cancelled.
        """
        self._is_stopping = True
        for job in self.active():
            if job.intake is not None:  # what was said so far is all
                job.intake.end()
        with anyio.move_on_after(grace_s):
            while self._active:
                await self._active_changed.wait()
        late = self.active()
        for job in late:
            self.cancel(job, _stopping())
        for job in late:
            await job.over.wait()
        return len(late)

    def _check_room(self) -> None:
        if self._is_stopping:
            raise _stopping()
        limit = self._settings().limits.max_jobs
        if len(self._active) >= limit:
            raise WhisperdError(
                "job.queue_full",
                f"{limit:,} jobs are waiting already.",
                "Wait for some to end, or raise limits.max_jobs in the settings.",
                {"retry_after_s": 30},
            )

    def _check_live_room(self) -> None:
        if sum(job.intake is not None for job in self._active.values()) >= LIVE_JOBS_AT_ONCE:
            raise WhisperdError(
                "live.too_many",
                f"{LIVE_JOBS_AT_ONCE} live transcriptions are running already.",
                "Finish or cancel one of them; `whisperctl jobs list` shows them.",
            )

    async def _run(self, job: Job, lease: Lease) -> None:
        """Run a job and end it in exactly one way."""
        error: WhisperdError | None = None
        try:
            with job.scope, lease:
                job.transcript = await self._transcribe(job, lease)
        except anyio.get_cancelled_exc_class():  # not of this job, but of all
            job.cancelled_by = job.cancelled_by or _stopping()
            raise
        except WhisperdError as failure:
            error = failure.copy()
        except Exception:
            log.exception("job %s failed unexpectedly", job.id)
            error = unexpected_error()
        finally:
            self._end(job, error)

    async def _transcribe(self, job: Job, lease: Lease) -> Transcript:
        options = job.options.decode_options(self._settings().runtime.beam_size)
        while True:
            # A place is taken only on a loaded runtime: a long download holds up nobody else's job.
            loaded = await lease.loaded()
            check_against_model(job.options, loaded.info.languages, lease.model)
            if job.intake is not None:
                with lease.use() as runtime:
                    if runtime is not None:
                        live = LiveRun(job, job.intake, self._dispatcher(runtime), options, self._publish)
                        return await live.transcribe(self._decoders())
                continue
            async with self._places[job.options.priority]:
                with lease.use() as runtime:
                    if runtime is not None:  # else it ended, or was edited, while the job waited for its turn
                        run = JobRun(job, self._dispatcher(runtime), options, self._publish)
                        return await run.transcribe(self._decoders(), self._decode_params(job))

    def _decode_params(self, job: Job) -> DecodeParams:
        settings = self._settings().decoder
        shown_path = str(sendable(job.path))
        return DecodeParams(
            path=shown_path,
            path_bytes=None if shown_path == job.path else os.fsencode(job.path),
            vad=job.options.vad,
            clips=job.options.clips,
            channels=job.options.channels,
            max_window_s=settings.max_window_s,
            max_duration_s=settings.max_duration_s,
        )

    def _dispatcher(self, runtime: LoadedRuntime) -> Dispatcher:
        if runtime not in self._dispatchers:
            self._dispatchers[runtime] = Dispatcher(runtime)
            self._tasks.start_soon(self._run_dispatcher, runtime)
        return self._dispatchers[runtime]

    async def _run_dispatcher(self, runtime: LoadedRuntime) -> None:
        try:
            await self._dispatchers[runtime].run()
        finally:
            del self._dispatchers[runtime]

    def _end(self, job: Job, error: WhisperdError | None) -> None:
        if job.transcript is not None:
            self._completed(job, job.transcript)
        elif error is None or job.cancelled_by is not None:
            self._cancelled(job)
        else:
            self._failed(job, error)
        job.ended = now_rfc3339()
        if job.intake is not None:
            job.intake.close()
        del self._active[job.id]
        self._ended[job.id] = job
        job.over.set()
        self._active_changed.set()
        self._active_changed = anyio.Event()
        self._tell_active_changed()
        self.clear(keep=self._settings().limits.kept_jobs)

    def _completed(self, job: Job, transcript: Transcript) -> None:
        job.status = "completed"
        speed = transcript.duration / transcript.elapsed if transcript.elapsed else 0.0
        self._publish(
            TranscriptionCompleted(
                id=job.id,
                text=transcript.text,
                language=transcript.language,
                duration=transcript.duration,
                elapsed=transcript.elapsed,
                speed=round(speed, 2),
                segments=len(transcript.segments),
                runtime=transcript.runtime,
            )
        )
        log.info(
            "job %s completed: %.1f s of audio in %.2f s", job.id, transcript.duration, transcript.elapsed
        )

    def _cancelled(self, job: Job) -> None:
        job.status, job.error = "cancelled", job.cancelled_by or _cancelled_on_request()
        self._publish(TranscriptionCancelled(id=job.id, error=job.error.to_wire()))
        log.info("job %s cancelled: %s", job.id, job.error.code)

    def _failed(self, job: Job, error: WhisperdError) -> None:
        job.status, job.error = "failed", error
        self._publish(TranscriptionFailed(id=job.id, error=error.to_wire()))
        log.warning("job %s failed: %s", job.id, error.code)


def check_input(path: str) -> str:
    """Whether a path can be transcribed at all; returns it absolute.

    Raises `WhisperdError` (`audio.not_found`, `audio.is_directory`, `audio.not_readable`, …) at
    once, so that nobody waits for a model to be loaded to learn of a spelling mistake.
    """
    if "\0" in path or not os.path.isabs(path):  # noqa: PTH117 - the daemon has no working folder of yours
        raise WhisperdError(
            "input.not_absolute", f"The path {path!r} is not absolute.", "Send an absolute path."
        )
    with open_regular_file(path):
        return path


async def check_path(path: str) -> None:
    """As `check_input`, in a thread, for a folder may not answer: then `audio.not_readable` is raised."""
    try:
        await run_abandonable(path, lambda: check_input(path))
    except TimeoutError as error:
        raise WhisperdError(
            "audio.not_readable",
            f"{path} cannot be read: its folder does not answer within {ANSWER_TIMEOUT_S:.0f} seconds.",
            "Check that its disk or network folder answers, or copy the file to another one.",
            {"path": path},
        ) from error


def _cancelled_on_request() -> WhisperdError:
    return WhisperdError("job.cancelled", "The job was cancelled.", "Submit it again when it is wanted.")


def _stopping() -> WhisperdError:
    return WhisperdError(
        "daemon.stopping",
        "The daemon is stopping.",
        "Start it again with `whisperctl daemon start` and send the job again.",
    )
