"""One decoding of one window, how good it looks, and what is made of it. Pure.

Every engine decodes in its own way; what becomes of the text is the same for all.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from whisperd.worker.protocol import EngineSegment, EngineWord, WindowResult
from whisperd.worker.rules import (
    SURE_LOGPROB,
    SURE_TOTAL_LOGPROB,
    goes_in_circles,
    is_guess,
    is_silence,
)
from whisperd.worker.sentences import has_several_sentences, split_sentences
from whisperd.worker.words import Word

__all__ = ["Attempt", "improve"]

_LEAST_LOGPROB = -99.0
"""Stands for a probability of nothing, whose logarithm no format can write."""

SomeAttempt = TypeVar("SomeAttempt", bound="Attempt")


@dataclass(kw_only=True)
class Attempt:
    """What one decoding found."""

    tokens: tuple[int, ...]
    """Those of text, without what only steers the decoder."""
    text: str
    temperature: float
    avg_logprob: float
    """Mean over the tokens and the one that ends them."""
    no_speech_prob: float
    is_endless: bool
    """Whether it was cut off at the most tokens that it may have."""
    words: Sequence[Word] = field(default=())
    """With their times, where they were asked for."""

    @cached_property
    def compression_ratio(self) -> float:
        """How much shorter the text becomes by leaving out what it repeats; 0 without text."""
        data = self.text.encode()
        return len(data) / len(zlib.compress(data)) if data else 0.0

    @cached_property
    def goes_in_circles(self) -> bool:
        """Whether it says the same again and again."""
        return goes_in_circles(self.compression_ratio, self.tokens)

    @property
    def looks_bad(self) -> bool:
        """Whether it should be computed again: it never ends, repeats itself, or is a mere guess."""
        if self.is_endless or self.goes_in_circles:
            return True
        return is_guess(self.avg_logprob) and not is_silence(self.no_speech_prob, self.avg_logprob)

    @property
    def is_echo(self) -> bool:
        """Whether all of it is one piece, said twice or more often.

        People say that, too. But a model that hears a short window with little silence behind it may hear all
        of it twice.
        """
        said = "".join(filter(str.isalnum, self.text.casefold()))
        return bool(said) and said in (said + said)[1:-1]

    @property
    def is_sure(self) -> bool:
        """Whether the model is so sure of it, decoded greedily, that beams would find nothing better."""
        total = self.avg_logprob * (len(self.tokens) + 1)  # with the end of the text
        is_likely = self.avg_logprob >= SURE_LOGPROB and total >= SURE_TOTAL_LOGPROB
        return bool(self.tokens) and is_likely and not self.is_doubtful(had_full_context=False)

    def is_doubtful(self, *, had_full_context: bool) -> bool:
        """Whether it should be computed again: it looks bad, or is an echo that the full context may undo."""
        return self.looks_bad or (self.is_echo and not had_full_context)

    @property
    def wants_times(self) -> bool:
        """Whether it holds several sentences, so that the times between them matter."""
        return has_several_sentences(self.text)

    def rank(self) -> tuple[bool, float]:
        """The better of two that look bad: no circle before a circle, then the likelier."""
        return not self.goes_in_circles, self.avg_logprob

    def result(self, language: tuple[str, float], duration_s: float) -> WindowResult:
        """What it says of a window of that length; `language` has its probability."""
        code, probability = language
        segments = self.segments(duration_s)
        return WindowResult(language=code, language_probability=probability, segments=segments)

    def segments(self, duration_s: float) -> tuple[EngineSegment, ...]:
        """One for each sentence where the times of the words are known, else one for the whole window.

        There is none where nobody spoke. They have their words, if the times of those are known.
        """
        if not self.text.strip() or is_silence(self.no_speech_prob, self.avg_logprob):
            return ()
        sentences = split_sentences(self.words)
        if len(sentences) < 2:
            return (self._segment(0.0, duration_s, self.text, self.tokens, self.words),)
        starts = [0.0, *(sentence[0].start for sentence in sentences[1:])]
        ends = [*(sentence[-1].end for sentence in sentences[:-1]), duration_s]
        return tuple(
            self._segment(
                start,
                min(max(start, end), duration_s),
                "".join(word.text for word in sentence),
                tuple(token for word in sentence for token in word.tokens),
                sentence,
            )
            for start, end, sentence in zip(starts, ends, sentences, strict=True)
        )

    def _segment(
        self, start: float, end: float, text: str, tokens: tuple[int, ...], words: Sequence[Word]
    ) -> EngineSegment:
        return EngineSegment(
            start=round(start, 3),
            end=round(end, 3),
            text=text,
            tokens=tokens,
            temperature=self.temperature,
            avg_logprob=self.avg_logprob if math.isfinite(self.avg_logprob) else _LEAST_LOGPROB,
            compression_ratio=self.compression_ratio,
            no_speech_prob=self.no_speech_prob,
            words=tuple(
                EngineWord(
                    text=word.text,
                    start=round(min(max(start, word.start), end), 3),
                    end=round(min(max(start, word.end), end), 3),
                    probability=round(word.probability, 4),
                )
                for word in words
            ),
        )


def improve(
    attempt: SomeAttempt,
    temperatures: Sequence[float],
    decode: Callable[[float], SomeAttempt],
    *,
    had_full_context: bool,
) -> SomeAttempt:
    """The best of an attempt and those that follow it while it is doubtful.

    `decode` computes the window again with the full context, first at the same temperature unless that is
    what the attempt had, then at rising ones.
    """
    best = attempt
    later = temperatures[1:] if had_full_context else temperatures
    for temperature in later:
        if not best.is_doubtful(had_full_context=had_full_context):
            break
        again = decode(temperature)
        had_full_context = True
        best = again if not again.looks_bad else max(best, again, key=Attempt.rank)
    return best
