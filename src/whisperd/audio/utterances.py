"""Cuts live speech into utterances while it is spoken. Pure: speech probabilities in, slices of audio out.

An utterance ends with a pause. While someone speaks, all of it so far is released now and then, so that a
first text can be shown, and once in each pause that may be its end, so that the final text is ready if it
was. All positions are samples at 16 kHz.
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
"""Samples of a pause after which the end is likely. Longer than `PAD`, so the utterance would be the same."""
LONGEST: Final = 14 * SAMPLE_RATE
"""A longer utterance is cut at its longest pause."""
INTERVAL: Final = SAMPLE_RATE * 8 // 10
"""How much more must be spoken before it is released again."""
PAD: Final = SAMPLE_RATE // 5
"""Audio kept around the speech."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice `[start, end)` of the audio: an utterance, or its beginning so far."""

    start: int
    end: int
    is_final: bool
    is_likely_final: bool = False
    """Whether it has probably ended; if so, this is all of it."""


class UtteranceCutter:
    """Follows live speech, frame by frame."""

    def __init__(self) -> None:
        self._detector = SpeechDetector()
        self._spans: list[Span] = []
        self._floor = 0  # earlier audio belongs to finished utterances
        self._shown = 0  # how far the open utterance was released
        self._paused = 0  # end of the speech before the pause in which it was released

    @property
    def keep_from(self) -> int:
        """Lower bound, in samples, for the beginning of future pieces."""
        start = self._spans[0].start if self._spans else self._detector.settled
        return max(start - PAD, self._floor)

    def feed(self, probability: float, level: float) -> Iterator[Piece]:
        """Take the next frame: its speech probability and its loudness (on any scale)."""
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
        """End the session after `total` samples."""
        self._spans += self._detector.finish(total)
        if self._spans:
            yield from self._finish(len(self._spans), total)

    def _propose(self, end: int, position: int) -> Iterator[Piece]:
        """Release the utterance so far, once per pause."""
        if self._paused != end:
            self._paused, self._shown = end, position
            yield Piece(self.keep_from, end + PAD, is_final=False, is_likely_final=True)

    def _best_cut(self) -> int:
        """Return the span before which to cut: at the longest pause that leaves speech on both sides."""
        pauses = [span.pause for span in self._spans[1:]]
        if not self._detector.is_quiet:  # speech that is still open counts as a span
            pauses.append(self._detector.pause)
        return max(range(1, len(pauses) + 1), key=lambda at: (pauses[at - 1], at), default=1)

    def _finish(self, count: int, position: int) -> Iterator[Piece]:
        done, self._spans = self._spans[:count], self._spans[count:]
        # Speech that is still open counts as a span.
        is_silent = not self._spans and self._detector.is_quiet
        following = self._spans[0].start if self._spans else self._detector.settled
        end = min(done[-1].end + PAD, position if is_silent else (done[-1].end + following) // 2)
        start = max(done[0].start - PAD, self._floor)
        self._floor, self._shown = end, 0
        yield Piece(start, end, is_final=True)
