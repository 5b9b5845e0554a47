"""Live sessions that survive the death of their decoder process.

Audio since the last finished utterance is buffered here, so that another process can detect speech in it.
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
"""The longest open utterance (`utterances.LONGEST`), with the audio kept around it."""


@asynccontextmanager
async def follow(decoders: DecoderPool) -> AsyncIterator[Follower]:
    """Start a live session. Leaving the block before its end kills the decoder."""
    async with AsyncExitStack() as stack:
        follower = Follower(decoders, stack)
        await follower.begin()
        yield follower


class Follower:
    """Like `Listening`, but on the timeline of the whole session, whichever process does the work."""

    def __init__(self, decoders: DecoderPool, stack: AsyncExitStack) -> None:
        self._decoders = decoders
        self._stack = stack
        self._listening: Listening | None = None
        self._began_s = 0.0  # where the current process began
        self._held = bytearray()
        self._held_from = 0  # where it begins, in samples

    async def begin(self) -> None:
        """Get a decoder process ready."""
        await self._ask(lambda _listening, _is_new: checkpoint())

    async def feed(self, pcm: bytes, *, partials: bool = True) -> Heard:
        """Process the audio since the last call."""
        self._held += pcm

        async def feed(listening: Listening, is_new: bool) -> Heard:
            return await listening.feed(bytes(self._held) if is_new else pcm, partials=partials)

        return self._on_full_timeline(await self._ask(feed))

    async def end(self) -> Heard:
        """End the session; an open utterance becomes final."""
        before: list[Utterance] = []

        async def end(listening: Listening, is_new: bool) -> Heard:
            if is_new:
                heard = await listening.feed(bytes(self._held), partials=False)
                before.extend(self._on_full_timeline(heard).utterances)
            return await listening.end()

        last = self._on_full_timeline(await self._ask(end))
        return msgspec.structs.replace(last, utterances=(*before, *last.utterances))

    async def _ask(self, ask: Callable[[Listening, bool], Awaitable[T]]) -> T:
        """Ask the current process or, if it is killed or stalls, a new one that gets the buffered audio."""
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
                # A process that stalls is not stuck in the audio, which is nothing but samples.
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
