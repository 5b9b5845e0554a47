"""Runs jobs: on a leased runtime, each in its turn, or answered from stored transcripts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import anyio
import msgspec
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from whisperd.audio import DecodeParams, DecoderPool, elapsed_within
from whisperd.jobs.audio_buffer import AudioBuffer
from whisperd.jobs.dispatcher import Dispatcher
from whisperd.jobs.job import Job
from whisperd.jobs.keeper import JobKeeper, SavedProgress
from whisperd.jobs.lifecycle import begin
from whisperd.jobs.live import LiveRun
from whisperd.jobs.options import check_against_engine
from whisperd.jobs.run import JobRun, WindowsChanged
from whisperd.jobs.scheduler import Priority
from whisperd.jobs.segments import Transcript
from whisperd.jobs.transcript_builder import events_of
from whisperd.rpc.errors import sendable
from whisperd.rpc.events import Event
from whisperd.runtimes import Lease, LoadedRuntime
from whisperd.settings import Settings
from whisperd.tasks import RepeatedEvent, open_task_group
from whisperd.worker.protocol import DecodeOptions

__all__ = ["JobExecutor", "jobs_at_once"]

INTERACTIVE_JOBS_AT_ONCE = 8
"""Interactive jobs are short, and a person waits for each."""
SMALL_BYTES = 4 * 2**20
"""A file of at most this size usually holds a few minutes, so its decoder finishes soon. The decoder of an
hours-long recording waits for the engine until nearly all of it is computed."""

HASH_PATIENCE_S = 2.0
"""How long a finished job waits for the hash of its file, of which it may have needed only a small part."""

Queue = tuple[Priority, bool]
"""Where a job waits for a slot: its priority, and whether its file is small."""


def jobs_at_once(settings: Settings) -> dict[Queue, int]:
    """Return how many files of each queue are decoded at once. The next file may start as soon as one is
    decoded, so that the engine always has work.

    Queues never share slots, so neither a folder of files nor a few long ones delay another's short clip.
    """
    slots: dict[Queue, int] = {("interactive", False): INTERACTIVE_JOBS_AT_ONCE}
    for is_small in (False, True):
        slots["normal", is_small] = slots["bulk", is_small] = settings.decoder.processes
    return slots


def _queue_of(job: Job) -> Queue:
    priority = job.options.priority
    is_small = job.stamp is not None and job.stamp.size_bytes <= SMALL_BYTES
    return priority, is_small and priority != "interactive"


class JobExecutor:
    """Runs jobs, decoding a limited number of files per queue at once, with a dispatcher per runtime."""

    def __init__(
        self,
        tasks: TaskGroup,
        decoders: DecoderPool,
        settings: Callable[[], Settings],
        publish: Callable[[Event], None],
        keeper: JobKeeper,
    ) -> None:
        self._tasks = tasks
        self._decoders = decoders
        self._settings = settings
        self._publish = publish
        self._keeper = keeper
        self._dispatchers: dict[LoadedRuntime, Dispatcher] = {}
        self._held: frozenset[Priority] = frozenset()
        self._released = RepeatedEvent()
        self._slots = {queue: anyio.Semaphore(slots) for queue, slots in jobs_at_once(settings()).items()}

    def hold(self, priorities: frozenset[Priority]) -> None:
        """Hold jobs of these classes, and release all others; windows being computed are finished."""
        self._held = priorities
        for dispatcher in self._dispatchers.values():
            dispatcher.hold(priorities)
        self._released.set()

    def is_held(self, job: Job) -> bool:
        """Whether the class of a job is held."""
        return job.options.priority in self._held

    async def transcribe(self, job: Job, lease: Lease) -> Transcript:
        """Transcribe a job, or find a stored transcript of it. Raises `WhisperdError`."""
        if job.audio_buffer is not None:
            return await self._transcribe_live(job, job.audio_buffer, lease)
        began_s = time.monotonic()
        # A newly submitted file was just checked, but a known hash comes from an earlier check.
        if job.is_resumed or job.stamp is None or job.content_hash is not None:
            await self._keeper.check_input(job)
        if (kept := await self._keeper.find_transcript(job, lease)) is not None:
            await self._publish_cached(job, kept)
            elapsed_s = round(max(time.monotonic() - began_s, 1e-3), 3)
            return msgspec.structs.replace(kept, elapsed=elapsed_s)
        while True:
            await self._released.wait_for(lambda: not self.is_held(job))
            # A slot is taken only once the runtime is loaded, so that a long download delays no other job.
            loaded = await lease.loaded()
            check_against_engine(job.options, loaded.info, lease.model)
            dispatcher = self._dispatcher(loaded)
            dispatcher.add_job(job.id, job.options.priority)  # so that the scheduler expects more windows
            try:
                slots = self._slots[_queue_of(job)]
                await slots.acquire()
                with ExitStack() as slot:  # which may be closed early
                    slot.callback(slots.release)
                    with lease.use() as runtime:
                        # Else it was unloaded or edited, or the class was held, while the job waited.
                        if runtime is loaded and not self.is_held(job):
                            return await self._transcribe_file(job, lease, dispatcher, slot.close)
            finally:
                dispatcher.remove_job(job.id)

    def waiting_windows(self, runtime: LoadedRuntime) -> int:
        """Return how many windows of all jobs wait for a loaded runtime."""
        dispatcher = self._dispatchers.get(runtime)
        return dispatcher.waiting if dispatcher else 0

    async def _transcribe_live(self, job: Job, audio_buffer: AudioBuffer, lease: Lease) -> Transcript:
        while True:
            loaded = await lease.loaded()
            check_against_engine(job.options, loaded.info, lease.model)
            with lease.use() as runtime:
                if runtime is not None:
                    dispatcher, options = self._dispatcher(runtime), self._engine_options(job)
                    run = LiveRun(job, audio_buffer, dispatcher, options, self._publish)
                    return await run.transcribe(self._decoders)

    async def _transcribe_file(
        self, job: Job, lease: Lease, dispatcher: Dispatcher, on_decoded: Callable[[], None]
    ) -> Transcript:
        """Transcribe what earlier runs left unfinished, and save progress."""
        keeper, options, params = self._keeper, self._engine_options(job), self._decode_params(job)

        async def run_from(progress: SavedProgress) -> Transcript:
            run = JobRun(job, dispatcher, options, self._publish, keeper, progress)
            return await run.transcribe(self._decoders, params, on_decoded)

        await keeper.check_input(job)  # it may have been written to while it waited
        progress = await keeper.load_progress(job, lease)
        async with open_task_group() as tasks:
            tasks.start_soon(keeper.hash_input, job)
            try:
                transcript = await run_from(progress)
            except WindowsChanged:
                keeper.forget_progress(job)
                transcript = await run_from(SavedProgress(past=progress.past))
            tasks.cancel_scope.deadline = anyio.current_time() + HASH_PATIENCE_S
        await keeper.check_complete(job)
        return transcript

    def _engine_options(self, job: Job) -> DecodeOptions:
        return job.options.decode_options(self._settings().runtime.beam_size)

    def _decode_params(self, job: Job) -> DecodeParams:
        settings = self._settings().decoder
        shown_path = str(sendable(job.path))
        return DecodeParams(
            path=shown_path,
            path_bytes=None if shown_path == job.path else os.fsencode(job.path),
            vad=job.options.vad,
            clips=job.options.clips,
            channels=job.options.channels,
            track=job.options.track,
            max_window_s=settings.max_window_s,
            max_duration_s=settings.max_duration_s,
        )

    def _dispatcher(self, runtime: LoadedRuntime) -> Dispatcher:
        if runtime not in self._dispatchers:
            self._dispatchers[runtime] = Dispatcher(runtime)
            self._dispatchers[runtime].hold(self._held)
            self._tasks.start_soon(self._run_dispatcher, runtime)
        return self._dispatchers[runtime]

    async def _run_dispatcher(self, runtime: LoadedRuntime) -> None:
        try:
            await self._dispatchers[runtime].run()
        finally:
            del self._dispatchers[runtime]

    async def _publish_cached(self, job: Job, transcript: Transcript) -> None:
        """Publish the events of a stored transcript as if it had just been made."""
        job.is_cached = True
        job.duration_s = elapsed_within(job.options.clips, transcript.duration)
        job.language = transcript.language
        self._publish(begin(job, transcript.language, transcript.duration))
        for segment in transcript.segments:
            await checkpoint()  # a day of audio has thousands
            for event in events_of(job, segment):
                self._publish(event)
