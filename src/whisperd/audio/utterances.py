"""Live speech, cut while it is spoken. Pure: speech probabilities in, pieces of audio to transcribe out.

An utterance ends with a pause. While somebody speaks, all of it so far is handed out now and then, so that
a first text can be shown, and once in each pause that may be its end: then its final text is known already
when it turns out that it was. All positions are samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.speech import Span, SpeechDetector

__all__ = ["LONGEST", "Piece", "UtteranceCutter"]

END_SILENCE: Final = SAMPLE_RATE // 2
"""Samples of a pause that ends an utterance."""
LIKELY_END: Final = SAMPLE_RATE * 22 // 100
"""From which on that is likely. Longer than `PAD`, so that the utterance would be the same."""
LONGEST: Final = 14 * SAMPLE_RATE
"""An utterance that goes on for longer is cut at its longest pause."""
INTERVAL: Final = SAMPLE_RATE * 8 // 10
"""How much more has to be spoken before it is handed out again."""
PAD: Final = SAMPLE_RATE // 5
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

    def __init__(self) -> None:
        self._detector = SpeechDetector()
        self._spans: list[Span] = []
        self._floor = 0  # what lies before is part of an utterance that is over
        self._shown = 0  # how far the open utterance was handed out
        self._paused = 0  # the end of the speech before the pause in which it was handed out

    @property
    def keep_from(self) -> int:
        """No piece that is still to come begins before this sample."""
        start = self._spans[0].start if self._spans else self._detector.settled
        return max(start - PAD, self._floor)

    def feed(self, probability: float, level: float) -> Iterator[Piece]:
        """Take the next frame: how likely it is speech, and how loud it is (any scale)."""
        self._spans += self._detector.feed(probability, level)
        position = self._detector.position
        is_silent = self._detector.is_quiet
        if self._spans and is_silent and position - self._spans[-1].end >= END_SILENCE:
            yield from self._finish(len(self._spans), position)
            return
        start = self._spans[0].start if self._spans else self._detector.settled
        if self._spans and is_silent and position - self._spans[-1].end >= LIKELY_END:
            yield from self._propose(self._spans[-1].end, position)
        if self._spans and position - start >= LONGEST:
            yield from self._finish(self._best_cut(), position)
        elif position - max(start, self._shown) >= INTERVAL and not is_silent:
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
            yield Piece(self.keep_from, end + PAD, is_final=False, is_likely_final=True)

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
        end = min(done[-1].end + PAD, position if is_silent else (done[-1].end + following) // 2)
        start = max(done[0].start - PAD, self._floor)
        self._floor, self._shown = end, 0
        yield Piece(start, end, is_final=True)
