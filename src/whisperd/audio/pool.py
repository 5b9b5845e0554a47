"""The daemon's pool of decoder processes: starts them, keeps some ready, ends them.

A process decodes one file at a time. It is reused after a clean decode and discarded after any error, so that
whatever hostile media did to it cannot reach the next file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from whisperd.audio.messages import DecodeParams
from whisperd.audio.process import MAX_KILLED, Decoder, Decoding, Listening, was_killed
from whisperd.child import python_command
from whisperd.isolation import isolated_environment
from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import RepeatedEvent, keep_running, open_task_group

__all__ = [
    "MAX_KILLED",
    "DecoderOptions",
    "DecoderPool",
    "Decoding",
    "FindBundle",
    "Listening",
    "open_decoder_pool",
    "was_killed",
]

log = logging.getLogger(__name__)

FindBundle = Callable[[], Awaitable[Path]]
"""Returns the path of the `media` bundle, and installs it if necessary; called before each process start."""


@dataclass(frozen=True)
class DecoderOptions:
    """Limits on decoder processes."""

    max_processes: int = 2
    """How many files are decoded at once; more wait."""
    stall_timeout_s: float = 30.0
    """A decoder that sends nothing for this long while we wait for it is stuck."""
    memory_limit_bytes: int = 1024**3
    """Memory limit that the kernel enforces on a process (Linux)."""
    refill_delay_s: float = 10.0
    """How long a file occupies its decoder before another is made ready. Until then the decoder comes back,
    or another file starts its own, which takes a third of a second."""
    linger_s: float = 5.0
    """How long more than one decoder stays ready, so that many short files need not start new ones."""
    patience_s: float = 0.3
    """How long a file waits for a busy decoder before starting one: about as long as a start takes. So a few
    decoders are enough for many short files, which saves the CPU time of further starts."""


MakeCommand = Callable[[Path, DecoderOptions], list[str]]
"""Returns the command that starts a decoder process from this bundle."""


def decoder_command(bundle: Path, options: DecoderOptions) -> list[str]:
    """Return the command that starts a decoder process."""
    return python_command("whisperd.audio.decoder", str(bundle), str(options.memory_limit_bytes))


@asynccontextmanager
async def open_decoder_pool(
    find_bundle: FindBundle, options: DecoderOptions | None = None, command: MakeCommand = decoder_command
) -> AsyncIterator[DecoderPool]:
    """Open a pool of decoders; none of its processes outlives the block."""
    async with open_task_group() as tasks:
        pool = DecoderPool(tasks, find_bundle, options or DecoderOptions(), command)
        tasks.start_soon(keep_running, pool.run)
        try:
            yield pool
        finally:
            tasks.cancel_scope.cancel()


class DecoderPool:
    """Decodes files in child processes. Create one with `open_decoder_pool`."""

    def __init__(
        self, tasks: TaskGroup, find_bundle: FindBundle, options: DecoderOptions, command: MakeCommand
    ) -> None:
        self._tasks = tasks
        self._find_bundle = find_bundle
        self._options = options
        self._command = command
        self._slots = anyio.Semaphore(options.max_processes)
        self._idle: list[Decoder] = []
        self._warming_up = anyio.Lock()
        self._changed = RepeatedEvent()  # which decoders are ready, or what is wanted
        self._keep_warm = False

    def limit(self, *, stall_timeout_s: float, memory_limit_bytes: int) -> None:
        """Change limits, for the next file. Processes started with other memory limits are not reused."""
        self._options = replace(
            self._options, stall_timeout_s=stall_timeout_s, memory_limit_bytes=memory_limit_bytes
        )
        self._changed.set()

    @property
    def keep_warm(self) -> bool:
        """Whether a process is kept ready for the next file, as far as `max_processes` allows."""
        return self._keep_warm

    @keep_warm.setter
    def keep_warm(self, value: bool) -> None:
        self._keep_warm = value
        self._changed.set()

    @asynccontextmanager
    async def decode(self, params: DecodeParams, *, is_patient: bool = True) -> AsyncIterator[Decoding]:
        """Decode one file; waits while too many are being decoded.

        If `is_patient`, waits a moment for a busy decoder before starting one. Leaving the block before the
        end kills the decoder.
        """
        async with self._slots:
            decoder = await self._acquire(is_patient=is_patient)
            decoding = Decoding(decoder, params, self._options.stall_timeout_s)
            try:
                self._tasks.start_soon(decoding.ask)
                yield decoding
            finally:
                decoding.close()
                await self._release(decoder, is_well=decoding.result is not None)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listening]:
        """Open a live session of any length, which does not count towards `max_processes`.

        Leaving the block before the end kills the decoder.
        """
        decoder = await self._acquire(is_patient=False)
        listening = Listening(decoder, self._options.stall_timeout_s)
        try:
            await listening.begin()
            yield listening
        finally:
            await self._release(decoder, is_well=listening.is_over)

    async def run(self) -> None:
        """Keep a process ready while that is wanted. Sleeps until something changes."""
        while True:
            changed = self._changed.next
            while self._lingering_s() == 0:
                await self._idle.pop(0).end()
            # Most files are short, and their decoder comes back: starting another one at once would only take
            # CPU time from the work that someone is waiting for.
            with anyio.move_on_after(self._options.refill_delay_s):
                await self._changed.wait_for(
                    lambda: bool(self._idle) or not (self._keep_warm and self._is_busy())
                )
            if not self._keep_warm or any(map(self._is_outdated, self._idle)):
                while self._idle:
                    await self._idle.pop().end()
            if self._keep_warm and not self._idle and self._slots.value > 0:
                async with self._warming_up:
                    await self._warm_up()
            with anyio.move_on_after(self._lingering_s()):
                await changed.wait()

    async def _release(self, decoder: Decoder, *, is_well: bool) -> None:
        """Keep a decoder for the next files, or end it."""
        if is_well and self._keep_warm and not self._is_outdated(decoder):
            self._stand_ready(decoder)
        else:
            await decoder.end()
            self._changed.set()

    def _stand_ready(self, decoder: Decoder) -> None:
        decoder.idle_since_s = anyio.current_time()
        self._idle.append(decoder)
        self._changed.set()

    def _lingering_s(self) -> float | None:
        """Return how long the least recently used decoder may stay ready; None if it is the only one."""
        if len(self._idle) < 2:
            return None
        return max(0.0, self._idle[0].idle_since_s + self._options.linger_s - anyio.current_time())

    def _is_outdated(self, decoder: Decoder) -> bool:
        return decoder.memory_limit_bytes != self._options.memory_limit_bytes

    def _is_busy(self) -> bool:
        """Whether a file is being decoded."""
        return self._slots.value < self._options.max_processes

    async def _warm_up(self) -> None:
        try:
            decoder = await self._start()
        except WhisperdError as error:  # the next decode fails in the same way, and reports it
            log.warning("cannot keep a decoder ready: %s", error)
            return
        if await self._answers(decoder, "warm_up"):
            if self._idle:  # a busy one has come back meanwhile
                await decoder.end()
            else:
                self._stand_ready(decoder)

    async def _acquire(self, *, is_patient: bool) -> Decoder:
        async with self._warming_up:
            pass  # a process being warmed up is the first to become available
        while True:
            while self._idle:
                decoder = self._idle.pop()
                self._changed.set()
                if self._is_outdated(decoder):
                    await decoder.end()
                elif await self._answers(decoder, "ping"):
                    return decoder
            is_alone = self._slots.value >= self._options.max_processes - 1
            if not is_patient or is_alone or not self._keep_warm:
                return await self._start()
            with anyio.move_on_after(self._options.patience_s):
                await self._changed.wait_for(lambda: bool(self._idle))
            is_patient = bool(self._idle)

    async def _start(self) -> Decoder:
        decoder = Decoder(self._options.memory_limit_bytes)
        bundle = await self._find_bundle()
        command = self._command(bundle, self._options)
        try:
            await self._tasks.start(decoder.run, command, isolated_environment(os.environ, bundle))
        except OSError as error:
            raise WhisperdError(
                "decoder.not_started",
                f"The process that decodes recordings cannot be started: {error.strerror or error}.",
                "If its program is missing, install whisperd again and restart the daemon. Else close "
                "programs that you do not need, or raise the limits on processes and open files.",
            ) from error
        return decoder

    async def _answers(self, decoder: Decoder, method: str) -> bool:
        """Whether a decoder is alive and responding; ends it if not."""
        well = False
        try:
            with anyio.move_on_after(self._options.stall_timeout_s):
                well = await decoder.answers(method)
        finally:
            if not well:
                await decoder.end()
        return well
