"""Finds the speech on one channel: by detection, or from what an earlier decode found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from whisperd.audio.known_speech import KnownSpeech, pack
from whisperd.audio.messages import SAMPLE_RATE, Found
from whisperd.audio.speech import Span, SpeechDetector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from whisperd.audio.vad import VoiceActivity

__all__ = ["SpeechFinder"]

REPORT_EVERY: Final = 20 * SAMPLE_RATE
"""Samples between reports of what was found; a later run saves the time of detecting it again."""


class SpeechFinder:
    """Finds speech on one channel of a part of a recording. Positions are samples from the part's start."""

    def __init__(self, activity: VoiceActivity, part: int, channel: int, known: KnownSpeech | None) -> None:
        self._activity = activity
        self._part = part
        self._channel = channel
        self._known = known
        self._detector = SpeechDetector()
        self._taken = 0
        self._reported = 0
        self._unreported: list[Span] = []

    @property
    def settled(self) -> int:
        """Lower bound, in samples, for the beginning of future spans."""
        return self._detector.settled if self._known is None else self._known.settled(self._taken)

    def feed(self, samples: Any) -> Iterator[Span]:
        """Take a block of samples; yields the speech that has ended."""
        first, self._taken = self._taken, self._taken + len(samples)
        if self._known is not None:
            skipped = samples[: self._known.position - first]
            samples = samples[len(skipped) :]
            if self._taken > self._known.position - SAMPLE_RATE:  # what follows depends on the last samples
                self._activity.skip(skipped)
            yield from self._known.until(self._taken)
            if self._taken < self._known.position:
                return
            self._start_listening(self._known)
        yield from self._listen(self._activity.feed(samples))

    def finish(self) -> Iterator[Span]:
        """End the part; yields the remaining speech."""
        if self._known is None:  # else the part is shorter than before
            yield from self._listen(self._activity.finish())
            yield from self._detector.finish(self._taken)

    def found(self) -> Found | None:
        """Return what was found since the last report; None while that is little, or someone is speaking."""
        position = self._detector.position
        if self._known is not None or position - self._reported < REPORT_EVERY or not self._detector.is_quiet:
            return None
        spans, self._unreported, self._reported = self._unreported, [], position
        return Found(
            part=self._part,
            channel=self._channel,
            position=position,
            spans=pack(spans),
            memory=self._detector.memory + self._activity.memory,
        )

    def _start_listening(self, known: KnownSpeech) -> None:
        """Start detecting, as the known part ends here."""
        of_detector = len(self._detector.memory)
        self._activity.restore(known.memory[of_detector:])
        self._detector.resume(known.position, known.speech_end, known.memory[:of_detector])
        self._reported, self._known = known.position, None

    def _listen(self, heard: Iterable[tuple[float, float]]) -> Iterator[Span]:
        for probability, level in heard:
            for span in self._detector.feed(probability, level):
                self._unreported.append(span)
                yield span
