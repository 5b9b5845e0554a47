"""The language of a recording: that of most of its speech. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from whisperd.worker.protocol import WindowResult

__all__ = ["LanguageVote", "is_unsure"]

SURE_PROBABILITY: Final = 0.6
"""Below this probability of its own language, speech is transcribed in that of the whole recording."""


def is_unsure(result: WindowResult) -> bool:
    """Whether the language of a text is uncertain."""
    return bool(result.segments) and result.language_probability < SURE_PROBABILITY


class LanguageVote:
    """Each piece of speech votes for the language detected in it.

    Votes are weighted by length, so that a sigh does not outvote a sentence.
    """

    ENOUGH_S: Final = 8.0
    """Live speech after which the language is decided. However many, single words are easily misdetected."""

    def __init__(self) -> None:
        self._weights: defaultdict[str, float] = defaultdict(float)
        self._heard_s = 0.0

    def add(self, language: str, probability: float, duration_s: float) -> None:
        """Add an utterance with speech."""
        self._weights[language] += probability * duration_s
        self._heard_s += duration_s

    @property
    def leading(self) -> str | None:
        """The most likely language so far."""
        return max(self._weights, key=self._weights.__getitem__, default=None)

    @property
    def decided(self) -> str | None:
        """The final language, once there was enough speech."""
        return self.leading if self._heard_s >= self.ENOUGH_S else None
