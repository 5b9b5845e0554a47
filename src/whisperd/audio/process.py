"""A decoder process and its work: decoding a file, or a live session."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final, TypeVar

import anyio
import msgspec
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from whisperd.audio.messages import Decoded, DecodeParams, DecoderEvent, FeedParams, Heard
from whisperd.child import ENDED_BY_OTHERS, how_it_ended
from whisperd.decodable import decodable
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import InvalidAnswer
from whisperd.rpc.peer import PeerClosed
from whisperd.rpc.served_child import ServedChild, open_served_child

__all__ = ["MAX_KILLED", "Decoder", "Decoding", "Listening", "was_killed"]

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_KILLED: Final = 3
"""Give up after this many processes were killed from outside, none of which got further than the previous."""


class Decoder:
    """One decoder process."""

    child: ServedChild

    def __init__(self, memory_limit_bytes: int) -> None:
        self.memory_limit_bytes = memory_limit_bytes
        self.events: MemoryObjectSendStream[DecoderEvent] | None = None
        """Receives the events of the current file."""
        self.idle_since_s = 0.0
        self._ending = anyio.Event()
        self._ended = anyio.Event()

    async def run(
        self, command: list[str], environment: Mapping[str, str], *, task_status: TaskStatus[None]
    ) -> None:
        """Own the process until `end` is called."""
        try:
            served = open_served_child("decoder", command, environment, self._on_notification)
            async with served as self.child:
                task_status.started()
                await self._ending.wait()
        finally:
            self._ended.set()

    async def end(self) -> None:
        """Kill the process, and wait until it has ended."""
        self._ending.set()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    async def answers(self, method: str) -> bool:
        """Whether the process is alive and responding."""
        try:
            await self.child.request(method, None, NoneType)
        except (PeerClosed, WhisperdError) as error:
            log.warning("a decoder does not respond: %r; %s", error, self.child.last_words)
            return False
        return True

    async def crash_error(self, path: str) -> WhisperdError:
        """Return the error for a process that ended while decoding a file."""
        if self._ending.is_set():  # the result is no longer wanted
            return _stopped(path)
        how = await self.how_it_crashed()
        fix = "The file may be damaged: convert it to WAV, FLAC or MP3, then try again."
        if how in ENDED_BY_OTHERS:
            fix = "Try again: the file is not at fault. Perhaps the system killed the process to free memory."
        elif not how.startswith("signal"):  # native code that fails is ended by a signal
            fix = (
                "If whisperd or its Python was upgraded while the daemon was running, run `whisperctl daemon "
                "restart`. Otherwise run `whisperctl doctor`. If it finds no problem, the file may be "
                "damaged: convert it to WAV, FLAC or MP3."
            )
        return WhisperdError(
            "decoder.crashed",
            f"The process decoding {path} ended unexpectedly ({how}).",
            fix,
            {"path": path, "status": self.child.status},
        )

    async def how_it_crashed(self) -> str:
        """Return how a process ended unexpectedly; kill what is left of it."""
        how = await self.child.ended()
        if self.child.was_killed:
            how = "it sent invalid messages"
        log.warning("a decoder ended unexpectedly (%s); %s", how, self.child.last_words)
        return how

    async def _on_notification(self, _method: str, params: list[Any]) -> None:
        # A message that cannot be decoded counts as the end of the connection.
        (event,) = msgspec.convert(params, decodable(tuple[DecoderEvent]))
        if self.events is not None:
            await self.events.send(event)


class Decoding:
    """One file being decoded: iterate over its events to the end, then read `result`.

    Iterating raises `WhisperdError` for problems of the file (`audio.*`) or of its decoder
    (`decoder.crashed`, `decoder.stuck`, `decoder.out_of_memory`). The decoder pauses while no one iterates.
    """

    def __init__(self, decoder: Decoder, params: DecodeParams, stall_timeout_s: float) -> None:
        self._decoder = decoder
        self._params = params
        self._stall_timeout_s = stall_timeout_s
        self._error: WhisperdError | None = None
        self._events: MemoryObjectReceiveStream[DecoderEvent]
        decoder.events, self._events = anyio.create_memory_object_stream[DecoderEvent](0)
        self.result: Decoded | None = None
        """Set once the whole file was decoded."""

    def __aiter__(self) -> Decoding:
        return self

    async def __anext__(self) -> DecoderEvent:
        try:
            # The clock runs only while we wait, so a slow consumer never makes a decoder look stuck.
            with anyio.fail_after(self._stall_timeout_s):
                return await self._events.receive()
        except anyio.EndOfStream:
            if self.result is None:
                raise self._error or _stopped(self._params.path) from None
            raise StopAsyncIteration from None
        except TimeoutError:
            raise WhisperdError(
                "decoder.stuck",
                f"Decoding {self._params.path} has made no progress for {self._stall_timeout_s:.0f} seconds.",
                "Check that the disk or network folder responds, then try again.",
                {"path": self._params.path},
            ) from None

    async def ask(self) -> None:
        """Send the request, and store the outcome."""
        events = self._decoder.events
        assert events is not None
        try:
            self.result = await self._decoder.child.request("decode", self._params, Decoded)
        except (PeerClosed, InvalidAnswer):  # ended, or sent an invalid answer
            self._error = await self._decoder.crash_error(self._params.path)
        except WhisperdError as error:
            self._error = error
        finally:
            events.close()

    def close(self) -> None:
        """Accept no more events."""
        self._events.close()


class Listening:
    """A live session: `feed` audio, then `end`.

    Both raise `WhisperdError` (`decoder.crashed`, `decoder.stuck`).
    """

    def __init__(self, decoder: Decoder, stall_timeout_s: float) -> None:
        self._decoder = decoder
        self._stall_timeout_s = stall_timeout_s
        self.is_over = False
        """Whether it was ended without errors."""

    async def begin(self) -> None:
        """Begin the session."""
        await self._ask("live.begin", None, NoneType)

    async def feed(self, pcm: bytes, *, partials: bool = True) -> Heard:
        """Take 16-bit samples at 16 kHz. Without `partials`, omit utterances that are still being spoken."""
        return await self._ask("live.feed", FeedParams(pcm=pcm, partials=partials), Heard)

    async def end(self) -> Heard:
        """End the session; an open utterance becomes final."""
        heard = await self._ask("live.end", None, Heard)
        self.is_over = True
        return heard

    async def _ask(self, method: str, params: FeedParams | None, into: type[T]) -> T:
        try:
            with anyio.fail_after(self._stall_timeout_s):
                return await self._decoder.child.request(method, params, into)
        except (PeerClosed, InvalidAnswer) as error:
            raise await self._crashed() from error
        except TimeoutError:
            raise WhisperdError(
                "decoder.stuck",
                f"The decoder of the live speech has not responded for {self._stall_timeout_s:.0f} seconds.",
                "Start a new live transcription; the computer was probably overloaded.",
            ) from None

    async def _crashed(self) -> WhisperdError:
        how = await self._decoder.how_it_crashed()
        return WhisperdError(
            "decoder.crashed",
            f"The decoder of the live speech ended unexpectedly ({how}).",
            "Start a new live transcription; the job's segments have what was said until then.",
            {"status": self._decoder.child.status},
        )


def was_killed(error: WhisperdError) -> bool:
    """Whether a decoder was killed from outside, not by its own fault or that of its input."""
    return error.code == "decoder.crashed" and how_it_ended(error.data.get("status")) in ENDED_BY_OTHERS


def _stopped(path: str) -> WhisperdError:
    return WhisperdError(
        "decoder.stopped",
        f"Decoding {path} was stopped before the end of the file.",
        "Try again; the daemon was probably shutting down.",
        {"path": path},
    )
