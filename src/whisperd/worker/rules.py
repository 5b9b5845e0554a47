"""Rules shared by engines: the context of a window, the prompt, bad results, the vote on a language. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

__all__ = [
    "FRAMES_PER_SECOND",
    "FULL_CONTEXT_FRAMES",
    "MAX_PROMPT_TOKENS",
    "QUIET_EDGE_S",
    "SURE_LOGPROB",
    "SURE_TOTAL_LOGPROB",
    "common_context_frames",
    "context_frames",
    "elect",
    "goes_in_circles",
    "has_quiet_edges",
    "is_guess",
    "is_repetitive",
    "is_silence",
    "text_before",
    "token_limit",
]

FRAMES_PER_SECOND = 100
FULL_CONTEXT_FRAMES = 3000
"""The 30 seconds that Whisper was trained on."""

MAX_PROMPT_TOKENS = 223
"""The most tokens of preceding text that Whisper was trained with: half of its decoder's context."""

_STEP_FRAMES = 50
"""Contexts are multiples of this."""
_COMMON_STEP_FRAMES, _MOST_COMMON_FRAMES = 200, 1600
"""Step and limit of `common_context_frames`. With smaller steps few windows share a context, with larger ones
too much silence is processed (docs/benchmarks.md)."""
_SHORT_WINDOW_S, _SHORT_EXTRA_S, _USUAL_MARGIN_S = 10.0, 2.0, 2.0
_LEAST_CONTEXT_S = 12.0
"""Measured (docs/benchmarks.md): windows under 10 s lose words with less than 4 s of margin, a few words are
misrecognised in a context of less than 12 s, and long windows need no more than 2 s."""

QUIET_EDGE_S = 1.0
"""A window with more than this before or after its words lasts longer than its text."""

_MAX_COMPRESSION_RATIO = 2.4
_MIN_AVG_LOGPROB = -1.0
_NO_SPEECH_PROB = 0.6
"""The thresholds of the Whisper paper's reference code."""
SURE_LOGPROB, SURE_TOTAL_LOGPROB = -0.2, -9.0
"""Mean and sum over the tokens of a greedy decoding from which on a beam search gains nothing: each token has
a probability of four fifths, or more in a long text, which has more places to go wrong. Measured
(docs/benchmarks.md)."""
_LOOP_SIZES, _LOOP_TIMES, _LOOP_TOKENS = range(1, 25), 4, 12
"""A loop is a piece of so many tokens, repeated so often in a row, with at least so many tokens in all."""


def context_frames(duration_s: float, margin_s: float | None = None) -> int:
    """Return the mel frames of a window's context: its audio and a margin of silence, rounded up.

    `margin_s` is that of a long window (`LoadParams.context_margin_s`); a short one gets more. The context is
    at least 12 s in all.
    """
    return _in_steps(_wanted_s(duration_s, margin_s), _STEP_FRAMES)


def common_context_frames(duration_s: float, margin_s: float | None = None) -> int:
    """Return the mel frames of a window's context for engines that batch only windows of equal context.

    There are few distinct values: steps up to 16 s, and the full context for everything longer. It is at
    least `context_frames`, and depends only on the window.
    """
    frames = _in_steps(_wanted_s(duration_s, margin_s), _COMMON_STEP_FRAMES)
    return frames if frames <= _MOST_COMMON_FRAMES else FULL_CONTEXT_FRAMES


def _wanted_s(duration_s: float, margin_s: float | None) -> float:
    margin_s = _USUAL_MARGIN_S if margin_s is None else margin_s
    if duration_s < _SHORT_WINDOW_S:
        margin_s += _SHORT_EXTRA_S
    return max(duration_s + margin_s, _LEAST_CONTEXT_S)


def _in_steps(wanted_s: float, step_frames: int) -> int:
    steps = math.ceil(wanted_s * FRAMES_PER_SECOND / step_frames)
    return min(steps * step_frames, FULL_CONTEXT_FRAMES)


def token_limit(duration_s: float) -> int:
    """Return the most tokens that can be spoken in this time; with more, the decoder is looping."""
    return 40 + math.ceil(25 * duration_s)


def has_quiet_edges(spoken: Sequence[tuple[float, float]] | None, duration_s: float) -> bool:
    """Whether the text of a window needs word times to know when its speech begins and ends.

    That is so only if everything was to be transcribed. `spoken` is when somebody speaks, if known.
    """
    if not spoken:
        return spoken is not None
    return spoken[0][0] > QUIET_EDGE_S or duration_s - spoken[-1][1] > QUIET_EDGE_S


def text_before(hotwords: Sequence[int], prompt: Sequence[int]) -> list[int]:
    """Return the tokens given as preceding text: the first of the hotwords, then the last of the prompt.

    If there is no room for both, each gets half of it.
    """
    first = hotwords[: max(MAX_PROMPT_TOKENS // 2, MAX_PROMPT_TOKENS - len(prompt))]
    return [*first, *prompt[max(0, len(prompt) + len(first) - MAX_PROMPT_TOKENS) :]]


def is_guess(avg_logprob: float) -> bool:
    """Whether the words of a text are no more than a guess."""
    return not avg_logprob >= _MIN_AVG_LOGPROB  # also true for NaN


def is_repetitive(compression_ratio: float) -> bool:
    """Whether a text repeats itself so much that it compresses too well."""
    return compression_ratio > _MAX_COMPRESSION_RATIO


def goes_in_circles(compression_ratio: float, tokens: Sequence[int]) -> bool:
    """Whether a text is repetitive, or contains a loop: the same few tokens repeated over and over.

    Loops are checked separately because one in a long text hardly changes how well the text compresses.
    """
    return is_repetitive(compression_ratio) or any(
        _longest_loop(tokens, size) >= max(_LOOP_TIMES * size, _LOOP_TOKENS) for size in _LOOP_SIZES
    )


def _longest_loop(tokens: Sequence[int], size: int) -> int:
    """Return the token count of the longest run that repeats a piece of this size; at least one piece."""
    longest = length = size
    for before, token in zip(tokens, tokens[size:], strict=False):
        length = length + 1 if token == before else size
        longest = max(longest, length)
    return longest


def is_silence(no_speech_prob: float, avg_logprob: float) -> bool:
    """Whether nobody spoke: the model reports no speech, and is unsure of the words that it found."""
    return no_speech_prob > _NO_SPEECH_PROB and avg_logprob < _MIN_AVG_LOGPROB


def elect(
    guesses: Sequence[Mapping[str, float]],
    voters: Sequence[tuple[int, float]],
    among: Sequence[str] = (),
) -> list[tuple[str, float]]:
    """Return, for each window, its group's language and that language's share of the vote.

    `guesses` holds the probability of each language for each window, `voters` each window's group and
    length in seconds: a longer window has more weight. `among` lists the candidates; empty: any.
    """
    totals: dict[int, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    weights: defaultdict[int, float] = defaultdict(float)
    for guess, (group, duration_s) in zip(guesses, voters, strict=True):
        weights[group] += duration_s
        for language, probability in _guess_among(guess, among).items():
            totals[group][language] += probability * duration_s
    winners = {
        group: max(
            ((language, total / (weights[group] or 1.0)) for language, total in votes.items()),
            key=lambda one: one[1],
        )
        for group, votes in totals.items()
    }
    return [winners[group] for group, _ in voters]


def _guess_among(guess: Mapping[str, float], languages: Sequence[str]) -> Mapping[str, float]:
    """Return the probability of each of some languages, given that it is one of them."""
    if not languages:
        return guess
    total = sum(guess.get(language, 0.0) for language in languages)
    if not total:
        return {language: 1 / len(languages) for language in languages}
    return {language: guess.get(language, 0.0) / total for language in languages}
