"""Live speech, cut while it is spoken. Pure: speech probabilities in, pieces of audio to transcribe out.

An utterance ends with a pause. While somebody speaks, all of it so far is handed out now and then, so that
a first text can be shown, and once in each pause that may be its end: then its final text is known already
when it turns out that it was. All positions are samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.speech import Span, SpeechDetector

__all__ = ["LiveOptions", "Piece", "UtteranceCutter"]


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """When an utterance has ended, and how often it is shown until then."""

    end_silence_s: float = 0.5
    """A pause that ends an utterance."""
    likely_end_s: float = 0.22
    """A pause from which on that is likely. Longer than `pad_s`, so that the utterance would be the same."""
    longest_s: float = 14.0
    """An utterance that goes on for longer is cut at its longest pause."""
    interval_s: float = 0.8
    """How much more has to be spoken before it is handed out again."""
    pad_s: float = 0.2
    """Audio kept around the speech."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice `[start, end)` of the audio: an utterance, or what there is of one."""

    start: int
    end: int
    is_final: bool
    is_likely_final: bool = False
    """Whether it has probably ended, and what there is of it is then all of it."""


class UtteranceCutter:
    """Follows one speaker, frame by frame."""

    def __init__(self, options: LiveOptions | None = None) -> None:
        options = options or LiveOptions()
        self._end_silence = int(options.end_silence_s * SAMPLE_RATE)
        self._longest = int(options.longest_s * SAMPLE_RATE)
        self._interval = int(options.interval_s * SAMPLE_RATE)
        self._pad = int(options.pad_s * SAMPLE_RATE)
        self._detector = SpeechDetector()
        self._spans: list[Span] = []
        self._floor = 0  # what lies before is part of an utterance that is over
        self._likely_end = int(options.likely_end_s * SAMPLE_RATE)
        self._shown = 0  # how far the open utterance was handed out
        self._paused = 0  # the end of the speech before the pause in which it was handed out

    @property
    def keep_from(self) -> int:
        """No piece that is still to come begins before this sample."""
        start = self._spans[0].start if self._spans else self._detector.settled
        return max(start - self._pad, self._floor)

    def feed(self, probability: float, level: float) -> Iterator[Piece]:
        """Take the next frame: how likely it is speech, and how loud it is (any scale)."""
        self._spans += self._detector.feed(probability, level)
        position = self._detector.position
        is_silent = self._detector.is_quiet
        if self._spans and is_silent and position - self._spans[-1].end >= self._end_silence:
            yield from self._finish(len(self._spans), position)
            return
        start = self._spans[0].start if self._spans else self._detector.settled
        if self._spans and is_silent and position - self._spans[-1].end >= self._likely_end > self._pad:
            yield from self._propose(self._spans[-1].end, position)
        if self._spans and position - start >= self._longest:
            yield from self._finish(self._best_cut(), position)
        elif position - max(start, self._shown) >= self._interval and not is_silent:
            self._shown = position
            yield Piece(self.keep_from, position, is_final=False)

    def finish(self, total: int) -> Iterator[Piece]:
        """The speaker is gone, after `total` samples."""
        self._spans += self._detector.finish(total)
        if self._spans:
            yield from self._finish(len(self._spans), total)

    def _propose(self, end: int, position: int) -> Iterator[Piece]:
        """Hand out once what there is of the utterance in a pause."""
        if self._paused != end:
            self._paused, self._shown = end, position
            yield Piece(self.keep_from, end + self._pad, is_final=False, is_likely_final=True)

    def _best_cut(self) -> int:
        """Before which span to cut: at the longest pause, of those that leave something on both sides."""
        if len(self._spans) == 1:
            return 1
        return max(range(1, len(self._spans)), key=lambda at: (self._spans[at].pause, at))

    def _finish(self, count: int, position: int) -> Iterator[Piece]:
        done, self._spans = self._spans[:count], self._spans[count:]
        # What follows may still be spoken; then it is as good as a span.
        is_silent = not self._spans and self._detector.is_quiet
        following = self._spans[0].start if self._spans else self._detector.settled
        end = min(done[-1].end + self._pad, position if is_silent else (done[-1].end + following) // 2)
        start = max(done[0].start - self._pad, self._floor)
        self._floor, self._shown = end, 0
        yield Piece(start, end, is_final=True)
