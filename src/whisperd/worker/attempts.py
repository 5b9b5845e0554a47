"""One decoding of one window: how good it looks, and the segments it becomes. Pure.

Every engine decodes in its own way; this processing of the text is common to all.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from whisperd.worker.coverage import MIN_GAIN_LETTERS, spoken_letters
from whisperd.worker.protocol import EngineSegment, EngineWord, WindowResult
from whisperd.worker.rules import (
    QUIET_EDGE_S,
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
"""Stands for the logarithm of zero, which serialisation formats cannot represent."""

_ECHO_LETTERS_PER_S = 50.0
"""Twice as fast as anybody speaks. An echo is many times as fast: nothing is left of the window for it."""

_PAD_S = 0.2
"""Time kept before the first and after the last word if the window is longer than its speech."""

SomeAttempt = TypeVar("SomeAttempt", bound="Attempt")


@dataclass(kw_only=True)
class Attempt:
    """The result of one decoding."""

    tokens: tuple[int, ...]
    """The text tokens, without the decoder's control tokens."""
    text: str
    temperature: float
    avg_logprob: float
    """Mean over the tokens, including the end-of-text token."""
    no_speech_prob: float
    is_endless: bool
    """Whether it has more tokens than can be spoken in the time."""
    is_cut_off: bool = False
    """Whether it ends where the decoder has no more room, although more may have been said."""
    words: Sequence[Word] = field(default=())
    """With their times, if they were requested."""

    @cached_property
    def compression_ratio(self) -> float:
        """How much shorter the text becomes by compression, which removes repetitions; 0 without text."""
        data = self.text.encode()
        return len(data) / len(zlib.compress(data)) if data else 0.0

    @cached_property
    def goes_in_circles(self) -> bool:
        """Whether it repeats itself."""
        return goes_in_circles(self.compression_ratio, self.tokens)

    @property
    def looks_bad(self) -> bool:
        """Whether to recompute it: it does not end, repeats itself, or is a mere guess."""
        if self.is_endless or self.goes_in_circles:
            return True
        return is_guess(self.avg_logprob) and not is_silence(self.no_speech_prob, self.avg_logprob)

    @property
    def is_echo(self) -> bool:
        """Whether all of it is one phrase, repeated two or more times.

        People do say such things. But a model that processes a short window followed by little silence may
        transcribe all of it twice.
        """
        said = "".join(filter(str.isalnum, self.text.casefold()))
        return bool(said) and said in (said + said)[1:-1]

    @property
    def is_sure(self) -> bool:
        """Whether the model is so sure of this greedy decoding that a beam search cannot improve it."""
        total = self.avg_logprob * (len(self.tokens) + 1)  # with the end-of-text token
        is_likely = self.avg_logprob >= SURE_LOGPROB and total >= SURE_TOTAL_LOGPROB
        is_whole = bool(self.tokens) and not self.is_cut_off
        return is_whole and is_likely and not self.is_doubtful(had_full_context=False)

    def is_doubtful(self, *, had_full_context: bool) -> bool:
        """Whether to recompute it: it looks bad, or is an echo that the full context may remove."""
        return self.looks_bad or (self.is_echo and not had_full_context)

    @property
    def wants_times(self) -> bool:
        """Whether it has several sentences, so that the times between them matter."""
        return has_several_sentences(self.text)

    def rank(self) -> tuple[bool, float]:
        """Return the sort key of attempts that look bad: those without repetition win, then the likelier."""
        return not self.goes_in_circles, self.avg_logprob

    def result(self, language: tuple[str, float], duration_s: float) -> WindowResult:
        """Return the result for a window of this length; `language` is a code and its probability."""
        code, probability = language
        segments = self.segments(duration_s)
        return WindowResult(
            language=code,
            language_probability=probability,
            segments=segments,
            is_cut_off=self.is_cut_off,
        )

    def segments(self, duration_s: float) -> tuple[EngineSegment, ...]:
        """Return one segment for each sentence if the times of the words are known, else one for the window.

        There is none if nobody spoke. The segments include their words if the times of these are known.
        """
        if not self.text.strip() or is_silence(self.no_speech_prob, self.avg_logprob):
            return ()
        words = _without_echo(self.words)
        sentences = split_sentences(words)
        start_s, end_s = _speech(words, duration_s)
        if len(sentences) < 2:
            text, tokens = (self.text, self.tokens) if len(words) == len(self.words) else _joined(words)
            return (self._segment(start_s, end_s, text, tokens, words),)
        starts = [start_s, *(sentence[0].start for sentence in sentences[1:])]
        ends = [*(sentence[-1].end for sentence in sentences[:-1]), end_s]
        return tuple(
            self._segment(
                start,
                min(max(start, end), duration_s),
                *_joined(sentence),
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


def _speech(words: Sequence[Word], duration_s: float) -> tuple[float, float]:
    """Return when the text begins and ends: with the window, unless its words leave much of it out."""
    if not words:
        return 0.0, duration_s
    first_s, last_s = words[0].start, words[-1].end
    return (
        first_s - _PAD_S if first_s > QUIET_EDGE_S else 0.0,
        last_s + _PAD_S if duration_s - last_s > QUIET_EDGE_S else duration_s,
    )


def _joined(words: Sequence[Word]) -> tuple[str, tuple[int, ...]]:
    """Return the text and the tokens of some words."""
    return "".join(word.text for word in words), tuple(token for word in words for token in word.tokens)


def _without_echo(words: Sequence[Word]) -> Sequence[Word]:
    """Remove an end that repeats what comes right before it, but takes next to no time.

    Instead of ending its text, a model may write the last sentences again, for the silence behind them.
    """
    said = ["".join(filter(str.isalnum, word.text.casefold())) for word in words]
    for size in range(1, len(words) // 2 + 1):
        if said[-size:] != said[-2 * size : -size]:
            continue
        letters = sum(map(spoken_letters, said[-size:]))
        if letters >= max(MIN_GAIN_LETTERS, _ECHO_LETTERS_PER_S * (words[-1].end - words[-size].start)):
            return _without_echo(words[:-size])
    return words


def improve(
    attempt: SomeAttempt,
    temperatures: Sequence[float],
    decode: Callable[[float], SomeAttempt],
    *,
    had_full_context: bool,
) -> SomeAttempt:
    """Retry a doubtful attempt, and return the best one.

    `decode` recomputes the window with the full context: first at the same temperature, unless the attempt
    had the full context already, then at rising ones.
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
