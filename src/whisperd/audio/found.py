"""What was found of the speech in a recording, so that nobody has to listen to it twice. Pure.

Finding speech is most of a decoder's work. What it has found is told now and then, where nobody speaks, and
is kept. A later run of the same decoder on the same file reads on without listening until it is there, and
then listens as if it had never been interrupted: the network goes on from its own state.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from whisperd.audio.messages import Found
from whisperd.audio.speech import LEAD_SAMPLES, Span

__all__ = ["KnownSpeech", "merge_found", "pack", "unpack"]

_SPAN: Final = struct.Struct("<3q?")


class KnownSpeech:
    """What was found before, handed out as the samples come by again."""

    def __init__(self, found: Found) -> None:
        self.position = found.position
        self.memory = found.memory
        self._spans = deque(unpack(found.spans))
        self.speech_end = self._spans[-1].end if self._spans else 0
        """Where the last of it ends."""

    def until(self, position: int) -> Iterator[Span]:
        """The spans that have ended by then, each once."""
        while self._spans and self._spans[0].end <= position:
            yield self._spans.popleft()

    def settled(self, position: int) -> int:
        """No span that is still to come begins before this sample, which is not behind `position`."""
        if self._spans:
            return min(position, self._spans[0].start)
        return min(position, max(self.speech_end, self.position - LEAD_SAMPLES))


def pack(spans: Iterable[Span]) -> bytes:
    """Spans as they travel and are kept."""
    return b"".join(_SPAN.pack(span.start, span.end, span.pause, span.goes_on) for span in spans)


def unpack(data: bytes) -> Iterator[Span]:
    """Read them."""
    return (Span(*values) for values in _SPAN.iter_unpack(data))


def merge_found(told: Iterable[Found]) -> tuple[Found, ...]:
    """All that was told of each channel of each part, in one."""
    told_of: dict[tuple[int, int], list[Found]] = {}
    for found in told:
        told_of.setdefault((found.part, found.channel), []).append(found)
    return tuple(
        msgspec.structs.replace(
            parts[-1], spans=b"".join(one.spans for one in parts), marks=b"".join(one.marks for one in parts)
        )
        for parts in told_of.values()
    )
