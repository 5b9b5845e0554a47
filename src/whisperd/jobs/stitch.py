"""Putting a job's windows back in order and on the file's own time line. Pure."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from whisperd.worker.protocol import EngineSegment, EngineWord, WindowResult

__all__ = ["Segment", "Stitcher", "Word", "join_texts"]


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word, with the space before it; times in seconds from the beginning of the file."""

    text: str
    start: float
    end: float
    probability: float


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
    words: tuple[Word, ...] = ()
    """Empty unless they were asked for."""
    channel: int | None = None
    """From 0, where channels are heard by themselves."""
    language: str | None = None
    """What is spoken in it, as a code."""


class Window(Protocol):
    """What is asked of a window, such as `whisperd.audio.WindowAudio`. Times in seconds."""

    @property
    def index(self) -> int:
        """Its place among all windows, which are in the order of their beginnings."""

    @property
    def start(self) -> float:
        """Where it begins in the file."""

    @property
    def end(self) -> float:
        """Where it ends."""

    @property
    def channel(self) -> int | None:
        """The channel of which it is, where they are heard by themselves."""


class Stitcher:
    """Takes windows in any order and releases segments in the order of the file.

    Whatever times an engine gives, a segment lies within its window and begins no earlier than the one before
    it on its channel has ended. Where channels are heard by themselves, their windows overlap; their segments
    are merged by time.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Window, WindowResult]] = {}
        self._next_index = 0
        self._reached_s: dict[int | None, float] = {}
        self._held: list[Segment] = []
        """Those of channels for which another channel may still have something earlier, by their time."""
        self.segments: list[Segment] = []
        """Everything released so far."""

    def add(self, window: Window, result: WindowResult) -> list[Segment]:
        """The result of a window has come; returns the segments now in order."""
        self._waiting[window.index] = (window, result)
        first_new = len(self.segments)
        while (ready := self._waiting.pop(self._next_index, None)) is not None:
            self._next_index += 1
            for segment in ready[1].segments:
                self._hold(ready[0], segment, ready[1].language)
            if ready[0].channel is None:
                self._release()
            else:
                self._release(before_s=ready[0].start)
        return self.segments[first_new:]

    def finish(self) -> list[Segment]:
        """No window comes any more; returns what was still held."""
        first_new = len(self.segments)
        self._release()
        return self.segments[first_new:]

    @property
    def text(self) -> str:
        """The whole text so far, one line."""
        return join_texts(segment.text for segment in self.segments)

    def _hold(self, window: Window, segment: EngineSegment, language: str) -> None:
        earliest_s = max(self._reached_s.get(window.channel, 0.0), window.start)
        start_s = min(max(earliest_s, window.start + segment.start), window.end)
        end_s = min(max(start_s, window.start + segment.end), window.end)
        self._reached_s[window.channel] = end_s
        self._held.append(
            Segment(
                id=0,
                seek=round(window.start * 100),
                start=round(start_s, 3),
                end=round(end_s, 3),
                text=segment.text,
                tokens=segment.tokens,
                temperature=segment.temperature,
                avg_logprob=segment.avg_logprob,
                compression_ratio=segment.compression_ratio,
                no_speech_prob=segment.no_speech_prob,
                words=tuple(_placed(segment.words, window.start, start_s, end_s)),
                channel=window.channel,
                language=language,
            )
        )

    def _release(self, before_s: float = math.inf) -> None:
        """Let out what begins before a time: windows come in order, so nothing earlier can follow."""
        self._held.sort(key=lambda segment: segment.start)  # stable: on one channel the order stays
        count = sum(segment.start < before_s for segment in self._held)
        for segment in self._held[:count]:
            self.segments.append(msgspec.structs.replace(segment, id=len(self.segments)))
        del self._held[:count]


def _placed(words: Sequence[EngineWord], offset_s: float, start_s: float, end_s: float) -> Iterator[Word]:
    """The words of a segment on the time line of the file, one after the other and within the segment."""
    reached_s = start_s
    for word in words:
        word_start_s = min(max(reached_s, offset_s + word.start), end_s)
        reached_s = min(max(word_start_s, offset_s + word.end), end_s)
        yield Word(
            text=word.text,
            start=round(word_start_s, 3),
            end=round(reached_s, 3),
            probability=word.probability,
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
