"""The text of an utterance that can be shown while it is still being spoken. Pure.

An unfinished utterance is transcribed repeatedly, each time from its beginning, and the end of each
hypothesis is a guess. Words on which two successive hypotheses agree are taken as settled: the policy
LocalAgreement-2 of Macháček, Dabre and Bojar, "Turning Whisper into Real-Time Transcription System" (2023),
here without word times.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from whisperd.jobs.line_breaks import clean, pieces
from whisperd.jobs.segments import letters

__all__ = ["Agreement"]


class Agreement:
    """Compares successive hypotheses of one utterance."""

    def __init__(self) -> None:
        self._agreed: list[str] = []
        self._tentative: list[str] = []

    @property
    def agreed(self) -> str:
        """The settled text, which only grows."""
        return "".join(self._agreed).strip()

    @property
    def tentative(self) -> str:
        """The rest of the last hypothesis, after `agreed`."""
        return "".join(self._tentative).strip()

    def add(self, hypothesis: str) -> None:
        """Add the next hypothesis."""
        words = list(pieces(f" {clean(hypothesis)}")) if hypothesis.strip() else []
        rest = words[_place_of_end(self._agreed, words) :]
        both = zip(rest, self._tentative, strict=False)
        count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
        self._agreed += rest[:count]
        self._tentative = rest[count:]


def _place_of_end(agreed: Sequence[str], words: Sequence[str]) -> int:
    """Return how many words of a hypothesis correspond to the agreed ones: fewest edits, then nearest length.

    A new hypothesis may change words that were already agreed, and their number.
    """
    if list(words[: len(agreed)]) == agreed:
        return len(agreed)
    spoken = [letters(word) for word in words]
    row = list(range(len(words) + 1))
    for number, wanted in enumerate(map(letters, agreed), 1):
        diagonal, row[0] = row[0], number
        for place, found in enumerate(spoken, 1):
            change = diagonal + (wanted != found)
            diagonal = row[place]
            row[place] = min(row[place] + 1, row[place - 1] + 1, change)
    return min(range(len(row)), key=lambda place: (row[place], abs(place - len(agreed))))
