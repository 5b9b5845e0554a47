"""Somebody who speaks is listened to, though somebody else ends the process that does it.

What was spoken since the last utterance that is over is kept here, so that another process can hear it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from whisperd.audio.messages import SAMPLE_RATE, Heard
from whisperd.audio.process import Listening, was_killed
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from whisperd.audio.pool import DecoderPool

__all__ = ["Follower", "follow"]

log = logging.getLogger(__name__)

KEPT_S: Final = 16.0
"""No open utterance is longer (`LiveOptions.longest_s`), with what is kept around it."""


@asynccontextmanager
async def follow(decoders: DecoderPool) -> AsyncIterator[Follower]:
    """Follow somebody who speaks. Leaving the block before the end kills the decoder."""
    async with AsyncExitStack() as stack:
        yield Follower(decoders, stack, await stack.enter_async_context(decoders.listen()))


class Follower:
    """As `Listening`, on the time line of all that was spoken, whichever process has heard it."""

    def __init__(self, decoders: DecoderPool, stack: AsyncExitStack, listening: Listening) -> None:
        self._decoders = decoders
        self._stack = stack
        self._listening = listening
        self._began_s = 0.0  # where the process that listens has begun
        self._is_second = False
        self._held = bytearray()
        self._held_from = 0  # the sample at which it begins

    async def feed(self, pcm: bytes, *, partials: bool = True) -> Heard:
        """Take what was spoken since the last time."""
        self._held += pcm
        try:
            heard = await self._listening.feed(pcm, partials=partials)
        except WhisperdError as error:
            await self._go_on(error)
            heard = await self._listening.feed(bytes(self._held), partials=partials)
        return self._told(heard)

    async def end(self) -> Heard:
        """The speaker is gone; what was open is over."""
        try:
            return self._told(await self._listening.end())
        except WhisperdError as error:
            await self._go_on(error)
        before = self._told(await self._listening.feed(bytes(self._held), partials=False))
        last = self._told(await self._listening.end())
        return msgspec.structs.replace(last, utterances=(*before.utterances, *last.utterances))

    async def _go_on(self, error: WhisperdError) -> None:
        """Have another process listen, once; it hears what is held."""
        if self._is_second or not was_killed(error):
            raise error
        log.warning("a decoder that listened was killed, and another one goes on")
        self._is_second, self._began_s = True, self._held_from / SAMPLE_RATE
        self._listening = await self._stack.enter_async_context(self._decoders.listen())

    def _told(self, heard: Heard) -> Heard:
        began_s = self._began_s
        utterances = tuple(
            msgspec.structs.replace(one, start=one.start + began_s, end=one.end + began_s)
            for one in heard.utterances
        )
        position_s = heard.position + began_s
        over_s = [one.end for one in utterances if one.is_final]
        keep_from = round(max(0.0, position_s - KEPT_S, *over_s) * SAMPLE_RATE)
        if keep_from > self._held_from:
            del self._held[: 2 * (keep_from - self._held_from)]
            self._held_from = keep_from
        return Heard(position=position_s, utterances=utterances)
