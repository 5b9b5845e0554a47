"""Speech found in a recording, saved so that it need not be detected twice. Pure.

Detecting speech is most of a decoder's work. What it found is reported from time to time, where no one
speaks, and saved. A later run of the same decoder on the same file reads up to that point without detection,
and then continues as if it had never been interrupted: the network resumes from its own state.
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
    """Speech found before, handed out as its samples go by again."""

    def __init__(self, found: Found) -> None:
        self.position = found.position
        self.memory = found.memory
        self._spans = deque(unpack(found.spans))
        self.speech_end = self._spans[-1].end if self._spans else 0
        """Where the last span ends."""

    def until(self, position: int) -> Iterator[Span]:
        """Yield the spans that end by this position, each once."""
        while self._spans and self._spans[0].end <= position:
            yield self._spans.popleft()

    def settled(self, position: int) -> int:
        """Return a lower bound for the beginning of future spans, at most `position`."""
        if self._spans:
            return min(position, self._spans[0].start)
        return min(position, max(self.speech_end, self.position - LEAD_SAMPLES))


def pack(spans: Iterable[Span]) -> bytes:
    """Encode spans for messages and for storage."""
    return b"".join(_SPAN.pack(span.start, span.end, span.pause, span.goes_on) for span in spans)


def unpack(data: bytes) -> Iterator[Span]:
    """Decode spans."""
    return (Span(*values) for values in _SPAN.iter_unpack(data))


def merge_found(reports: Iterable[Found]) -> tuple[Found, ...]:
    """Merge all reports about each channel of each part into one."""
    by_channel: dict[tuple[int, int], list[Found]] = {}
    for found in reports:
        by_channel.setdefault((found.part, found.channel), []).append(found)
    return tuple(
        msgspec.structs.replace(
            parts[-1], spans=b"".join(one.spans for one in parts), marks=b"".join(one.marks for one in parts)
        )
        for parts in by_channel.values()
    )
