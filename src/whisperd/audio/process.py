"""The daemon's hold on decoder processes: start, reuse, watch, kill.

A process decodes one file at a time. It is reused after a clean decode and thrown away after any
error, so that what hostile media did to it cannot reach the next file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process, TaskGroup, TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from whisperd.audio.messages import Decoded, DecodeParams, DecoderEvent, FeedParams, Heard
from whisperd.child import how_it_ended, kill, open_child, python_command
from whisperd.isolation import isolated_environment
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import InvalidAnswer
from whisperd.rpc.peer import Peer, PeerClosed, open_peer
from whisperd.tasks import open_task_group

__all__ = ["DecoderOptions", "DecoderPool", "Decoding", "FindBundle", "Listening", "open_decoder_pool"]

log = logging.getLogger(__name__)

FindBundle = Callable[[], Awaitable[Path]]
"""Says where the `media` bundle is, installing it first if need be; asked before each process start."""

# What is kept of a process's standard error, for the log.
STDERR_BYTES = 4096
# A process that closed its output is about to end; if it does not, it is killed.
EXIT_WAIT_S = 2.0


@dataclass(frozen=True)
class DecoderOptions:
    """Limits on decoder processes."""

    max_processes: int = 2
    """How many files are decoded at the same time; more wait."""
    stall_timeout_s: float = 30.0
    """A decoder from which nothing comes for so long, though we are waiting for it, is stuck."""
    memory_limit_bytes: int = 1024**3
    """What the kernel lets a process have (Linux)."""
    refill_delay_s: float = 1.0
    """How long a file keeps its decoder before another one is made ready beside it."""
    linger_s: float = 5.0
    """How long more than one stand ready: where many short files come, they need not be started anew."""
    patience_s: float = 0.3
    """How long a file waits for a decoder to come back before one is started for it: about as long as that
    takes. Where many short files come together, a few decoders are enough, and each saves the processor time
    of a start."""


MakeCommand = Callable[[Path, DecoderOptions], list[str]]
"""Says how a decoder process is started from this bundle."""


def decoder_command(bundle: Path, options: DecoderOptions) -> list[str]:
    """How a decoder process is started."""
    return python_command("whisperd.audio.decoder", str(bundle), str(options.memory_limit_bytes))


@asynccontextmanager
async def open_decoder_pool(
    find_bundle: FindBundle, options: DecoderOptions | None = None, command: MakeCommand = decoder_command
) -> AsyncIterator[DecoderPool]:
    """A pool of decoders; no process of it is left after the block."""
    async with open_task_group() as tasks:
        pool = DecoderPool(tasks, find_bundle, options or DecoderOptions(), command)
        tasks.start_soon(pool.run)
        try:
            yield pool
        finally:
            tasks.cancel_scope.cancel()


class DecoderPool:
    """Decodes files in child processes. Make one with `open_decoder_pool`."""

    def __init__(
        self, tasks: TaskGroup, find_bundle: FindBundle, options: DecoderOptions, command: MakeCommand
    ) -> None:
        self._tasks = tasks
        self._find_bundle = find_bundle
        self._options = options
        self._command = command
        self._slots = anyio.Semaphore(options.max_processes)
        self._idle: list[_Decoder] = []
        self._warming_up = anyio.Lock()
        self._changed = anyio.Event()
        self._came_back = anyio.Event()
        self._keep_warm = False

    def limit(self, *, stall_timeout_s: float, memory_limit_bytes: int) -> None:
        """Change limits, for the next file. A process that was started with others decodes no more."""
        self._options = replace(
            self._options, stall_timeout_s=stall_timeout_s, memory_limit_bytes=memory_limit_bytes
        )
        self._changed.set()

    @property
    def keep_warm(self) -> bool:
        """Whether a process stands ready for the next file, as far as `max_processes` allows."""
        return self._keep_warm

    @keep_warm.setter
    def keep_warm(self, value: bool) -> None:
        self._keep_warm = value
        self._changed.set()

    @asynccontextmanager
    async def decode(self, params: DecodeParams, *, is_patient: bool = True) -> AsyncIterator[Decoding]:
        """Decode one file; waits while too many are being decoded.

        Who is patient waits a moment for another one's decoder before one is started.
        Leaving the block before the end kills the decoder.
        """
        async with self._slots:
            decoder = await self._obtain(is_patient=is_patient)
            decoding = Decoding(decoder, params, self._options.stall_timeout_s)
            try:
                self._tasks.start_soon(decoding.ask)
                yield decoding
            finally:
                decoding.close()
                await self._give_back(decoder, is_well=decoding.result is not None)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listening]:
        """Follow somebody who speaks, for as long as that takes; it keeps no file from being decoded.

        Leaving the block before the end kills the decoder.
        """
        decoder = await self._obtain(is_patient=False)
        listening = Listening(decoder, self._options.stall_timeout_s)
        try:
            await listening.begin()
            yield listening
        finally:
            await self._give_back(decoder, is_well=listening.is_over)

    async def run(self) -> None:
        """Keep a process ready while that is wanted. Sleeps until something changes."""
        while True:
            with anyio.move_on_after(self._lingering_s()):
                await self._changed.wait()
            self._changed = anyio.Event()
            while self._lingering_s() == 0:
                await self._idle.pop(0).end()
            if self._keep_warm and self._is_busy():
                # Most files are short, and their decoder comes back: to start another one at once
                # would only take processor time from the work that somebody waits for.
                with anyio.move_on_after(self._options.refill_delay_s):
                    while self._keep_warm and self._is_busy() and not self._idle:
                        await self._changed.wait()
                        self._changed = anyio.Event()
            if not self._keep_warm or any(map(self._is_outdated, self._idle)):
                while self._idle:
                    await self._idle.pop().end()
            if not self._keep_warm:
                continue
            if not self._idle and self._slots.value > 0:
                async with self._warming_up:
                    await self._warm_up()

    async def _give_back(self, decoder: _Decoder, *, is_well: bool) -> None:
        """Keep a decoder for the next files, or end it."""
        if is_well and self._keep_warm and not self._is_outdated(decoder):
            decoder.idle_since_s = anyio.current_time()
            self._stand_ready(decoder)
        else:
            await decoder.end()
        self._changed.set()

    def _stand_ready(self, decoder: _Decoder) -> None:
        self._idle.append(decoder)
        self._came_back.set()
        self._came_back = anyio.Event()

    def _lingering_s(self) -> float | None:
        """How long the one that was used least lately may still stand ready; None if it is the only one."""
        if len(self._idle) < 2:
            return None
        return max(0.0, self._idle[0].idle_since_s + self._options.linger_s - anyio.current_time())

    def _is_outdated(self, decoder: _Decoder) -> bool:
        return decoder.memory_limit_bytes != self._options.memory_limit_bytes

    def _is_busy(self) -> bool:
        """Whether a file is being decoded."""
        return self._slots.value < self._options.max_processes

    async def _warm_up(self) -> None:
        try:
            decoder = await self._start()
        except (OSError, WhisperdError) as error:  # the next decode meets it too, and reports it
            log.warning("no decoder can be kept ready: %s", error)
            return
        if await self._answers(decoder, "warm_up"):
            if self._idle:  # one that was at work has come back meanwhile
                await decoder.end()
            else:
                self._stand_ready(decoder)

    async def _obtain(self, *, is_patient: bool) -> _Decoder:
        async with self._warming_up:
            pass  # a process that is being made ready is the soonest to be had
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
            is_patient = await self._one_comes_back()

    async def _one_comes_back(self) -> bool:
        """Wait a moment for a decoder that another file has; returns whether one came back."""
        with anyio.move_on_after(self._options.patience_s):
            await self._came_back.wait()
            return True
        return False

    async def _start(self) -> _Decoder:
        decoder = _Decoder(self._options.memory_limit_bytes)
        bundle = await self._find_bundle()
        command = self._command(bundle, self._options)
        await self._tasks.start(decoder.run, command, isolated_environment(os.environ, bundle))
        return decoder

    async def _answers(self, decoder: _Decoder, method: str) -> bool:
        """Whether a decoder is alive and well; otherwise it is ended."""
        well = False
        try:
            with anyio.move_on_after(self._options.stall_timeout_s):
                well = await decoder.answers(method)
        finally:
            if not well:
                await decoder.end()
        return well


class Decoding:
    """One file being decoded: iterate over its events to the end, then read `result`.

    Iterating raises `WhisperdError`: what is wrong with the file (`audio.*`), or with its decoder
    (`decoder.crashed`, `decoder.stuck`, `decoder.out_of_memory`). While nobody iterates, the
    decoder is held back.
    """

    def __init__(self, decoder: _Decoder, params: DecodeParams, stall_timeout_s: float) -> None:
        self._decoder = decoder
        self._params = params
        self._stall_timeout_s = stall_timeout_s
        self._error: WhisperdError | None = None
        self._events: MemoryObjectReceiveStream[DecoderEvent]
        decoder.events, self._events = anyio.create_memory_object_stream[DecoderEvent](0)
        self.result: Decoded | None = None
        """Set when the whole file was decoded."""

    def __aiter__(self) -> Decoding:
        return self

    async def __anext__(self) -> DecoderEvent:
        try:
            # The clock runs only while we wait, so a slow consumer is never taken for a stuck decoder.
            with anyio.fail_after(self._stall_timeout_s):
                return await self._events.receive()
        except anyio.EndOfStream:
            if self.result is None:
                raise self._error or _stopped(self._params.path) from None
            raise StopAsyncIteration from None
        except TimeoutError:
            raise WhisperdError(
                "decoder.stuck",
                f"Decoding {self._params.path} stands still since {self._stall_timeout_s:.0f} seconds.",
                "Check that its disk or network folder answers, then try again.",
                {"path": self._params.path},
            ) from None

    async def ask(self) -> None:
        """Send the request and keep its outcome."""
        events = self._decoder.events
        assert events is not None
        try:
            answer = await self._decoder.peer.request("decode", self._params)
            self.result = msgspec.convert(answer, Decoded)
        except (PeerClosed, InvalidAnswer, ValueError):  # gone, or its answer makes no sense
            self._error = await self._decoder.crash_error(self._params.path)
        except WhisperdError as error:
            self._error = error
        finally:
            events.close()

    def close(self) -> None:
        """Nobody wants any more events."""
        self._events.close()


class Listening:
    """Somebody who speaks, being listened to: `feed` what was spoken, then `end`.

    Both raise `WhisperdError` (`decoder.crashed`, `decoder.stuck`).
    """

    def __init__(self, decoder: _Decoder, stall_timeout_s: float) -> None:
        self._decoder = decoder
        self._stall_timeout_s = stall_timeout_s
        self.is_over = False
        """Whether it was ended, and nothing went wrong."""

    async def begin(self) -> None:
        """Make ready."""
        await self._ask("live.begin")

    async def feed(self, pcm: bytes, *, partials: bool = True) -> Heard:
        """Take 16-bit samples at 16 kHz. Without `partials`, none in which somebody still speaks."""
        return await self._heard("live.feed", FeedParams(pcm=pcm, partials=partials))

    async def end(self) -> Heard:
        """The speaker is gone; what was open is over."""
        heard = await self._heard("live.end")
        self.is_over = True
        return heard

    async def _heard(self, method: str, params: FeedParams | None = None) -> Heard:
        try:
            return msgspec.convert(await self._ask(method, params), Heard)
        except msgspec.ValidationError as error:
            raise await self._crashed() from error

    async def _ask(self, method: str, params: FeedParams | None = None) -> Any:
        try:
            with anyio.fail_after(self._stall_timeout_s):
                return await self._decoder.peer.request(method, params)
        except (PeerClosed, InvalidAnswer) as error:
            raise await self._crashed() from error
        except TimeoutError:
            raise WhisperdError(
                "decoder.stuck",
                f"The process that listens stands still since {self._stall_timeout_s:.0f} seconds.",
                "Begin anew; the computer was probably overloaded.",
            ) from None

    async def _crashed(self) -> WhisperdError:
        how = await self._decoder.how_it_crashed()
        return WhisperdError(
            "decoder.crashed",
            f"The process that listened ended unexpectedly ({how}).",
            "Begin anew; what was said until then is in the job's segments.",
            {"status": self._decoder.status},
        )


class _Decoder:
    """One decoder process."""

    peer: Peer
    _process: Process

    def __init__(self, memory_limit_bytes: int) -> None:
        self.memory_limit_bytes = memory_limit_bytes
        self.events: MemoryObjectSendStream[DecoderEvent] | None = None
        """Where events of the current file go."""
        self.idle_since_s = 0.0
        self._ending = anyio.Event()
        self._ended = anyio.Event()
        self._stderr = b""

    async def run(
        self, command: list[str], environment: Mapping[str, str], *, task_status: TaskStatus[None]
    ) -> None:
        """Own the process until `end` is called."""
        try:
            async with open_child(command, env=environment) as self._process, open_task_group() as tasks:
                process = self._process
                assert process.stdin is not None and process.stdout is not None and process.stderr is not None
                tasks.start_soon(self._keep_stderr, process.stderr)
                async with open_peer(process.stdin, process.stdout, self._on_notification) as self.peer:
                    task_status.started()
                    await self._ending.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._ended.set()

    async def end(self) -> None:
        """Kill the process, and wait until it is gone."""
        self._ending.set()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    async def answers(self, method: str) -> bool:
        """Whether the process is alive and well."""
        try:
            await self.peer.request(method)
        except (PeerClosed, WhisperdError, ValueError) as error:
            log.warning("a decoder does not answer: %r; %s", error, self._stderr_text())
            return False
        return True

    async def crash_error(self, path: str) -> WhisperdError:
        """What to say of a process that went away in mid-file."""
        if self._ending.is_set():  # nobody is interested in this file any more
            return _stopped(path)
        how = await self.how_it_crashed()
        return WhisperdError(
            "decoder.crashed",
            f"The process that decoded {path} ended unexpectedly ({how}).",
            "The file may be damaged: convert it to WAV, FLAC or MP3, then try again.",
            {"path": path, "status": self.status},
        )

    async def how_it_crashed(self) -> str:
        """How a process ended that went away by itself; what is left of it is killed."""
        with anyio.move_on_after(EXIT_WAIT_S):
            await self._process.wait()
        kill(self._process)
        how = how_it_ended(self.status) or "it stopped making sense"
        log.warning("a decoder ended unexpectedly (%s); %s", how, self._stderr_text())
        return how

    @property
    def status(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.returncode

    async def _on_notification(self, _method: str, params: list[Any]) -> None:
        try:
            (event,) = msgspec.convert(params, tuple[DecoderEvent])
        except msgspec.ValidationError as error:  # taken for the end of the connection
            raise WhisperdError("decoder.nonsense", f"{error}.", "Convert the file.") from error
        if self.events is not None:
            await self.events.send(event)

    async def _keep_stderr(self, stream: ByteReceiveStream) -> None:
        async for data in stream:
            self._stderr = (self._stderr + data)[-STDERR_BYTES:]

    def _stderr_text(self) -> str:
        return self._stderr.decode(errors="replace").strip()


def _stopped(path: str) -> WhisperdError:
    return WhisperdError(
        "decoder.stopped",
        f"Decoding {path} was stopped before its end.",
        "Try again; the daemon was probably being shut down.",
        {"path": path},
    )
