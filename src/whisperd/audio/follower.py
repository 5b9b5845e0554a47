"""Somebody who speaks is listened to, though somebody else ends the process that does it.

What was spoken since the last utterance that is over is kept here, so that another process can hear it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from anyio.lowlevel import checkpoint

from whisperd.audio.messages import SAMPLE_RATE, Heard, Utterance
from whisperd.audio.process import MAX_KILLED, Listening, was_killed
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from whisperd.audio.pool import DecoderPool

__all__ = ["Follower", "follow"]

log = logging.getLogger(__name__)
T = TypeVar("T")

BUFFERED_S: Final = 16.0
"""No open utterance is longer (`utterances.LONGEST`), with what is kept around it."""


@asynccontextmanager
async def follow(decoders: DecoderPool) -> AsyncIterator[Follower]:
    """Follow somebody who speaks. Leaving the block before the end kills the decoder."""
    async with AsyncExitStack() as stack:
        follower = Follower(decoders, stack)
        await follower.begin()
        yield follower


class Follower:
    """As `Listening`, on the time line of all that was spoken, whichever process has heard it."""

    def __init__(self, decoders: DecoderPool, stack: AsyncExitStack) -> None:
        self._decoders = decoders
        self._stack = stack
        self._listening: Listening | None = None
        self._began_s = 0.0  # where the process that listens has begun
        self._held = bytearray()
        self._held_from = 0  # the sample at which it begins

    async def begin(self) -> None:
        """Make ready."""
        await self._ask(lambda _listening, _is_new: checkpoint())

    async def feed(self, pcm: bytes, *, partials: bool = True) -> Heard:
        """Take what was spoken since the last time."""
        self._held += pcm

        async def feed(listening: Listening, is_new: bool) -> Heard:
            return await listening.feed(bytes(self._held) if is_new else pcm, partials=partials)

        return self._on_full_timeline(await self._ask(feed))

    async def end(self) -> Heard:
        """The speaker is gone; what was open is over."""
        before: list[Utterance] = []

        async def end(listening: Listening, is_new: bool) -> Heard:
            if is_new:
                heard = await listening.feed(bytes(self._held), partials=False)
                before.extend(self._on_full_timeline(heard).utterances)
            return await listening.end()

        last = self._on_full_timeline(await self._ask(end))
        return msgspec.structs.replace(last, utterances=(*before, *last.utterances))

    async def _ask(self, ask: Callable[[Listening, bool], Awaitable[T]]) -> T:
        """Ask the process that listens; where somebody ends or stops it, a new one, with what is held."""
        killed = 0
        while True:
            try:
                is_new = self._listening is None
                if self._listening is None:
                    self._began_s = self._held_from / SAMPLE_RATE
                    self._listening = await self._stack.enter_async_context(self._decoders.listen())
                return await ask(self._listening, is_new)
            except WhisperdError as error:
                killed += 1
                # One that stands still is not stuck in what it hears, which is nothing but samples.
                if killed == MAX_KILLED or not (was_killed(error) or error.code == "decoder.stuck"):
                    raise
                log.warning("%s Another one continues.", error.message)
            self._listening = None
            await self._stack.aclose()

    def _on_full_timeline(self, heard: Heard) -> Heard:
        began_s = self._began_s
        utterances = tuple(
            msgspec.structs.replace(one, start=one.start + began_s, end=one.end + began_s)
            for one in heard.utterances
        )
        position_s = heard.position + began_s
        over_s = [one.end for one in utterances if one.is_final]
        keep_from = round(max(0.0, position_s - BUFFERED_S, *over_s) * SAMPLE_RATE)
        if keep_from > self._held_from:
            del self._held[: 2 * (keep_from - self._held_from)]
            self._held_from = keep_from
        return Heard(position=position_s, utterances=utterances)
