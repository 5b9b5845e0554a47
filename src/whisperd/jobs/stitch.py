"""Putting a job's windows back in order and on the file's own time line. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import msgspec

from whisperd.worker.protocol import EngineSegment, WindowResult

__all__ = ["Segment", "Stitcher", "join_texts"]


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of recognised speech; times in seconds from the beginning of the file."""

    id: int
    seek: int
    """Where its window begins, in hundredths of a second, as OpenAI's API counts."""
    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0


class Stitcher:
    """Takes windows in any order and releases segments in the order of the file.

    Whatever times an engine gives, a segment lies within its window and begins no earlier than the
    one before it has ended.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, float, Sequence[EngineSegment]]] = {}
        self._next_index = 0
        self._reached_s = 0.0
        self.segments: list[Segment] = []
        """Everything released so far."""

    def add(self, index: int, start_s: float, end_s: float, result: WindowResult) -> list[Segment]:
        """The result of the window from `start_s` to `end_s` has come; returns the segments now in order."""
        self._waiting[index] = (start_s, end_s, result.segments)
        first_new = len(self.segments)
        while (window := self._waiting.pop(self._next_index, None)) is not None:
            for segment in window[2]:
                self._release(segment, window[0], window[1])
            self._next_index += 1
        return self.segments[first_new:]

    @property
    def text(self) -> str:
        """The whole text so far, one line."""
        return join_texts(segment.text for segment in self.segments)

    def _release(self, segment: EngineSegment, window_start_s: float, window_end_s: float) -> None:
        earliest_s = max(self._reached_s, window_start_s)
        start_s = min(max(earliest_s, window_start_s + segment.start), window_end_s)
        end_s = min(max(start_s, window_start_s + segment.end), window_end_s)
        self._reached_s = end_s
        self.segments.append(
            Segment(
                id=len(self.segments),
                seek=round(window_start_s * 100),
                start=round(start_s, 3),
                end=round(end_s, 3),
                text=segment.text,
                tokens=segment.tokens,
                temperature=segment.temperature,
                avg_logprob=segment.avg_logprob,
                compression_ratio=segment.compression_ratio,
                no_speech_prob=segment.no_speech_prob,
            )
        )


def join_texts(texts: Iterable[str]) -> str:
    """Join pieces of text as their script does: with a space, but none in Chinese or Japanese."""
    joined = ""
    for text in filter(None, map(str.strip, texts)):
        gap = " " if joined and not (_is_unspaced(joined[-1]) or _is_unspaced(text[0])) else ""
        joined += gap + text
    return joined


def _is_unspaced(character: str) -> bool:
    """Whether a character is of a script without spaces between words."""
    return (  # wide, but neither Korean nor an emoji
        unicodedata.east_asian_width(character) in ("W", "F")
        and unicodedata.category(character) != "So"
        and not unicodedata.name(character, "").startswith("HANGUL")
    )
