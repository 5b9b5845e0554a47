"""Puts the results of a job's windows in order, on the file's timeline. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from whisperd.audio import WindowAudio
from whisperd.jobs.reconcile import SLACK_S, reconcile
from whisperd.jobs.segments import Segment, Word, join_texts, on_one_line
from whisperd.worker.protocol import EngineSegment, EngineWord, WindowResult

__all__ = ["Stitcher"]


@dataclass(frozen=True, slots=True)
class _Tail:
    """Segments near the end of a window that shares audio with the next one of its channel."""

    segments: list[Segment]
    end_s: float


class Stitcher:
    """Takes windows in any order, and releases segments in the order of the file.

    Whatever times an engine reports, a segment lies within its window, and starts no earlier than the end of
    the one before it on its channel. Text found in two windows is released once. Channels transcribed
    separately have overlapping windows; their segments are merged by time.
    """

    def __init__(self, *, keep_words: bool = True) -> None:
        """`keep_words` keeps words in the segments; otherwise they only help to join windows."""
        self._keep_words = keep_words
        self._waiting: dict[int, tuple[WindowAudio, WindowResult]] = {}
        self._next_index = 0
        self._reached_s: dict[int | None, float] = {}
        self._tails: dict[int | None, _Tail] = {}
        """Per channel, segments waiting for the window that shares their audio."""
        self._held: list[Segment] = []
        """Segments held back, because another channel may still have earlier ones."""
        self.segments: list[Segment] = []
        """All segments released so far."""
        self.done_s = 0.0
        """Position up to which all windows are done."""

    def add(self, window: WindowAudio, result: WindowResult) -> list[Segment]:
        """Add the result of a window; returns the segments that are now in order."""
        self._waiting[window.index] = (window, result)
        first_new = len(self.segments)
        while (ready := self._waiting.pop(self._next_index, None)) is not None:
            self._next_index += 1
            self.done_s = max(self.done_s, ready[0].end)
            self._take(*ready)
        return self.segments[first_new:]

    def finish(self) -> list[Segment]:
        """Return the segments still held, as no more windows will come."""
        first_new = len(self.segments)
        for tail in self._tails.values():
            self._hold(tail.segments)
        self._release()
        return self.segments[first_new:]

    @property
    def text(self) -> str:
        """The whole text so far, on one line."""
        return join_texts(segment.text for segment in self.segments)

    def _take(self, window: WindowAudio, result: WindowResult) -> None:
        segments = [_placed(window, segment, result.language) for segment in result.segments]
        if tail := self._tails.pop(window.channel, None):
            before, segments = reconcile(tail.segments, segments, window.start, tail.end_s)
            self._hold(before)
        if window.shared:
            settled_s = window.end - window.shared - SLACK_S
            count = sum(segment.end <= settled_s for segment in segments)
            self._tails[window.channel] = _Tail(segments[count:], window.end)
            del segments[count:]
        self._hold(segments)
        if window.channel is None:
            self._release()
        else:
            starts = (segment.start for tail in self._tails.values() for segment in tail.segments)
            self._release(before_s=min([window.start, *starts]))

    def _hold(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            held = _not_before(segment, self._reached_s.get(segment.channel, 0.0))
            self._reached_s[held.channel] = held.end
            if held.words and not self._keep_words:
                held = msgspec.structs.replace(held, words=())
            self._held.append(held)

    def _release(self, before_s: float = math.inf) -> None:
        """Release segments that begin before a time: windows come in order, so nothing earlier can follow."""
        self._held.sort(key=lambda segment: segment.start)  # stable, so each channel stays in order
        count = sum(segment.start < before_s for segment in self._held)
        for segment in self._held[:count]:
            self.segments.append(msgspec.structs.replace(segment, id=len(self.segments)))
        del self._held[:count]


def _placed(window: WindowAudio, segment: EngineSegment, language: str) -> Segment:
    """Return a segment on the timeline of the file, clamped to its window."""
    start_s = min(max(window.start, window.start + segment.start), window.end)
    end_s = min(max(start_s, window.start + segment.end), window.end)
    return Segment(
        id=0,
        seek=round(window.start * 100),
        start=round(start_s, 3),
        end=round(end_s, 3),
        text=on_one_line(segment.text),
        tokens=segment.tokens,
        temperature=segment.temperature,
        avg_logprob=segment.avg_logprob,
        compression_ratio=segment.compression_ratio,
        no_speech_prob=segment.no_speech_prob,
        words=tuple(_words(segment.words, window.start, start_s, end_s)),
        channel=window.channel,
        language=language,
    )


def _words(words: Sequence[EngineWord], offset_s: float, start_s: float, end_s: float) -> Iterator[Word]:
    """Yield the words of a segment on the timeline of the file, in sequence and clamped to the segment."""
    reached_s = start_s
    for word in words:
        word_start_s = min(max(reached_s, offset_s + word.start), end_s)
        reached_s = min(max(word_start_s, offset_s + word.end), end_s)
        yield Word(
            text=on_one_line(word.text),
            start=round(word_start_s, 3),
            end=round(reached_s, 3),
            probability=word.probability,
        )


def _not_before(segment: Segment, reached_s: float) -> Segment:
    """Return the segment with no time before `reached_s`."""
    if segment.start >= reached_s:
        return segment
    words = (
        msgspec.structs.replace(word, start=max(word.start, reached_s), end=max(word.end, reached_s))
        for word in segment.words
    )
    end_s = max(segment.end, reached_s)
    return msgspec.structs.replace(segment, start=reached_s, end=end_s, words=tuple(words))
