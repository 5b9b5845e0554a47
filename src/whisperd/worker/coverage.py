"""Detects windows whose text cannot be all that was said, or was sampled, and transcribes them in parts.

A Whisper model may end its text at the end of a sentence although another speaker continues, or begin it only
where the last speaker does: the text has a high probability, but half of it is missing. No score of the
decoder shows this; comparing the text with the time during which somebody speaks does. Such a window is
recomputed in two parts, and the longer text wins. It is cut in its longest pause or, if there is none, at the
end of what is missing, since the model had skipped to what follows. In speech without pauses, the times of
words, if known, also reveal a missing short sentence and where it begins: the second part then begins with
it, since a model does not skip the beginning of a window. Times are seconds from the beginning of the window.
This module is independent of engines: it uses only their protocol.

If a text was sampled, because the likeliest was a guess or a loop, the window is recomputed in two parts,
too: these seldom need sampling. Here the likelier text wins.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import msgspec

from whisperd.worker.answers import Transcribe
from whisperd.worker.protocol import (
    SAMPLE_RATE,
    DecodeOptions,
    EngineSegment,
    EngineWindow,
    IsWanted,
    SpokenTime,
    WindowResult,
)
from whisperd.worker.rules import goes_in_circles, is_guess

__all__ = [
    "Missing",
    "best_cut",
    "cut_at_words",
    "find_missing",
    "is_exact",
    "is_sparse",
    "merge",
    "overlap_s",
    "spoken_letters",
    "transcribe_whole",
]

MISSING_S = 3.0
"""Longer speech without text means missing text. Shorter may be a cough, which detectors take for speech."""
MISSING_WORDS_S = 1.5
"""The same between words in speech without pauses. Measured (docs/benchmarks.md): up to 0.5 s is usual."""
SLOWEST_LETTERS_PER_S = 8.0
"""Slow speakers say about ten letters a second, not counting pauses."""
FASTEST_LETTERS_PER_S = 20.0
"""Hardly anybody exceeds this for long."""
SLOWER_THAN_OTHERS = 0.5
"""The least speed of a sentence relative to the others of its window."""
DRAWL_S = 0.5
"""A word may last this much longer, as speakers drawl. Skipped speech is spread over the words next to it."""
EXACT_DRAWL_S = 0.2
"""The same in speech without pauses. Without it, a slow speaker's words would add up to missing speech."""
MIN_PART_S = 2.0
"""The minimum length of a part of a window."""
NEAR_S = 2.0
"""How far a quiet place for a cut may be from the missing speech."""
MAX_DEPTH = 2
"""How many times a window may be halved."""
MIN_GAIN_LETTERS = 12
MIN_GAIN_RATIO = 1.1
"""How much more text the parts must have to be accepted."""


def transcribe_whole(
    transcribe: Transcribe,
    windows: Sequence[EngineWindow],
    options: DecodeOptions,
    is_wanted: IsWanted = lambda _window: True,
) -> list[WindowResult]:
    """Transcribe a batch, and again in parts those windows whose text is incomplete or was sampled.

    Returns one result per window. Words that were not requested serve only to find missing speech, and are
    removed from the results.
    """
    results = [
        _completed(transcribe, window, result, options, MAX_DEPTH) if is_wanted(window) else result
        for window, result in zip(windows, transcribe(windows, options), strict=True)
    ]
    return results if options.word_times else [_without_words(result) for result in results]


def is_sparse(text: str, spoken: Sequence[SpokenTime] | None) -> bool:
    """Whether so much speech may be missing from the text that an engine should compute word times."""
    spoken_s = sum(end_s - start_s for start_s, end_s in spoken or ())
    return spoken_s - spoken_letters(text) / FASTEST_LETTERS_PER_S > MISSING_S


class Missing(NamedTuple):
    """A stretch of speech that no text accounts for."""

    length_s: float
    """The duration of the speech in it, less the time that the words in it would take."""
    start_s: float
    end_s: float
    """Infinity if no text follows it."""


def find_missing(segments: Sequence[EngineSegment], spoken: Sequence[SpokenTime]) -> Missing:
    """Return the longest stretch of speech that no text accounts for.

    It is the contiguous run of texts and gaps with the largest sum of unexplained time (Kadane's algorithm).
    """
    drawl_s = EXACT_DRAWL_S if is_exact(segments, spoken) else DRAWL_S
    rates = [
        spoken_letters(one.text) / spoken_s
        for one in segments
        if (spoken_s := overlap_s(spoken, one.start, one.end)) > 0
    ]
    rate = max(SLOWEST_LETTERS_PER_S, SLOWER_THAN_OTHERS * median(rates)) if rates else SLOWEST_LETTERS_PER_S
    longest = run = Missing(0.0, 0.0, 0.0)
    reached_s = 0.0
    # Words locate what was skipped more exactly: one or a few of them then last for seconds.
    for one in (text for segment in segments for text in (segment.words or (segment,))):
        before_s = overlap_s(spoken, reached_s, one.start)
        run = _extended(run, before_s, reached_s, one.start)
        spare_s = overlap_s(spoken, one.start, one.end) - spoken_letters(one.text) / rate
        longest = max(longest, run)
        run = _extended(run, spare_s - (drawl_s if run.length_s > 0 else 0.0), one.start, one.end)
        run = max(run, Missing(spare_s, one.start, one.end))
        longest = max(longest, run)
        reached_s = one.end
    return max(longest, _extended(run, overlap_s(spoken, reached_s, math.inf), reached_s, math.inf))


def is_exact(segments: Sequence[EngineSegment], spoken: Sequence[SpokenTime]) -> bool:
    """Whether words locate missing speech exactly: they have times, and there are no pauses between them.

    Continuous speech has been split, so that each of its parts begins where another ends.
    """
    never_pauses = len(spoken) > 1 and all(before[1] == after[0] for before, after in pairwise(spoken))
    return never_pauses and all(one.words for one in segments)


def _extended(run: Missing, length_s: float, start_s: float, end_s: float) -> Missing:
    """Extend a run with what follows, or start a new one if the run has no unexplained time."""
    if run.length_s > 0:
        return Missing(run.length_s + length_s, run.start_s, end_s)
    return Missing(length_s, start_s, end_s)


def spoken_letters(text: str) -> float:
    """Estimate the letters of a text as spoken: a digit counts as a word, a wide character as a syllable."""
    return sum(map(_letters, text))


def best_cut(spoken: Sequence[SpokenTime], duration_s: float, missing: Missing | None = None) -> float | None:
    """Return where to halve a window: in the longest pause near its middle; None if it is too short.

    If there is no pause, cut at the quiet place (where speech was split) nearest to the end of what is
    missing, or to its beginning if nothing follows it.
    """
    edge_s = max(MIN_PART_S, duration_s / 5)
    if duration_s < 2 * edge_s:
        return None
    pauses = [(before[1], after[0]) for before, after in pairwise(spoken)]
    in_the_middle = [
        (end_s - start_s, (start_s + end_s) / 2)
        for start_s, end_s in pauses
        if edge_s <= (start_s + end_s) / 2 <= duration_s - edge_s
    ]
    length_s, longest_s = max(in_the_middle, default=(0.0, duration_s / 2))
    if length_s > 0 or missing is None:
        return longest_s
    wanted_s = missing.end_s if missing.end_s < duration_s - MIN_PART_S else missing.start_s
    wanted_s = min(max(MIN_PART_S, wanted_s), duration_s - MIN_PART_S)
    quiet = [end_s for end_s, _ in pauses if MIN_PART_S <= end_s <= duration_s - MIN_PART_S]
    nearest_s = min(quiet, key=lambda at: abs(at - wanted_s), default=wanted_s)
    return nearest_s if abs(nearest_s - wanted_s) <= NEAR_S else wanted_s


def cut_at_words(missing: Missing, duration_s: float) -> float | None:
    """Return where to halve a window without pauses: where the missing part begins, so that it comes first.

    If no text comes before that, cut where it ends. None if both are too near to the window's ends.
    """
    places = (missing.start_s, missing.end_s)
    return next((at for at in places if MIN_PART_S <= at <= duration_s - MIN_PART_S), None)


def merge(first: WindowResult, second: WindowResult, cut_s: float) -> WindowResult:
    """Combine the results of a window's parts before and after `cut_s`."""
    moved = (_later(one, cut_s) for one in second.segments)
    is_cut_off = first.is_cut_off or second.is_cut_off
    return msgspec.structs.replace(first, segments=(*first.segments, *moved), is_cut_off=is_cut_off)


def _later(segment: EngineSegment, by_s: float) -> EngineSegment:
    words = tuple(
        msgspec.structs.replace(word, start=round(word.start + by_s, 3), end=round(word.end + by_s, 3))
        for word in segment.words
    )
    start_s, end_s = round(segment.start + by_s, 3), round(segment.end + by_s, 3)
    return msgspec.structs.replace(segment, start=start_s, end=end_s, words=words)


def _completed(
    transcribe: Transcribe,
    window: EngineWindow,
    result: WindowResult,
    options: DecodeOptions,
    depth: int,
) -> WindowResult:
    if window.spoken is None or depth == 0:
        return result
    missing = find_missing(result.segments, window.spoken)
    exact = is_exact(result.segments, window.spoken)
    is_missing = missing.length_s > (MISSING_WORDS_S if exact else MISSING_S)
    is_sampled = any(one.temperature > options.temperatures[0] for one in result.segments)
    if not (is_missing or result.is_cut_off or is_sampled or _goes_in_circles(result)):
        return result
    cut_s = cut_at_words(missing, window.duration_s) if exact and is_missing else None
    cut_s = cut_s or best_cut(window.spoken, window.duration_s, missing if is_missing else None)
    if cut_s is None:
        return result
    options = msgspec.structs.replace(options, language=result.language)
    parts = _halves(window, cut_s)
    first, second = (
        _completed(transcribe, part, heard, options, depth - 1)
        for part, heard in zip(parts, transcribe(parts, options), strict=True)
    )
    again = _without_echoes(merge(first, second, cut_s))
    again = msgspec.structs.replace(again, language_probability=result.language_probability)
    least_gain = 1.0 if exact else MIN_GAIN_RATIO
    is_likelier = is_sampled and not _goes_in_circles(again) and _logprob(again) > _logprob(result)
    return again if is_likelier or _is_better(again, result, least_gain) else result


def _logprob(result: WindowResult) -> float:
    """Return the mean log probability of its tokens; minus infinity if there are none."""
    tokens = sum(len(one.tokens) for one in result.segments)
    return sum(one.avg_logprob * len(one.tokens) for one in result.segments) / tokens if tokens else -math.inf


def _goes_in_circles(result: WindowResult) -> bool:
    return any(goes_in_circles(one.compression_ratio, one.tokens) for one in result.segments)


def _without_words(result: WindowResult) -> WindowResult:
    segments = (msgspec.structs.replace(one, words=()) for one in result.segments)
    return msgspec.structs.replace(result, segments=tuple(segments))


def _without_echoes(result: WindowResult) -> WindowResult:
    """Remove sentences that repeat the previous one: models fill what they did not understand with these."""
    kept: list[EngineSegment] = []
    for one in result.segments:
        is_long = spoken_letters(one.text) >= MIN_GAIN_LETTERS
        if not (kept and is_long and one.text.strip() == kept[-1].text.strip()):
            kept.append(one)
    return msgspec.structs.replace(result, segments=tuple(kept))


def _is_better(again: WindowResult, result: WindowResult, least_gain: float) -> bool:
    if _goes_in_circles(again) or any(is_guess(one.avg_logprob) for one in again.segments):
        return False
    if _goes_in_circles(result) or (result.is_cut_off and not again.is_cut_off):
        return True
    before, now = (sum(spoken_letters(one.text) for one in of.segments) for of in (result, again))
    return now >= max(before + MIN_GAIN_LETTERS, before * least_gain)


def _halves(window: EngineWindow, cut_s: float) -> list[EngineWindow]:
    cut = round(cut_s * SAMPLE_RATE)
    return [
        msgspec.structs.replace(
            window,
            pcm=window.pcm[2 * first : 2 * last],
            spoken=tuple(_within(window.spoken or (), first / SAMPLE_RATE, last / SAMPLE_RATE)),
        )
        for first, last in ((0, cut), (cut, len(window.pcm) // 2))
    ]


def _within(spoken: Sequence[SpokenTime], start_s: float, end_s: float) -> Iterator[SpokenTime]:
    """Yield the speech between two times, relative to the first."""
    for begin_s, stop_s in spoken:
        if (begin_s := max(begin_s, start_s)) < (stop_s := min(stop_s, end_s)):
            yield begin_s - start_s, stop_s - start_s


def overlap_s(spoken: Sequence[SpokenTime], start_s: float, end_s: float) -> float:
    """Return how long somebody speaks between two times."""
    return sum(stop_s - begin_s for begin_s, stop_s in _within(spoken, start_s, end_s))


def _letters(character: str) -> float:
    if character.isdigit():
        return 4.0
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return 2.5 if character.isalpha() else 0.0
    return 1.0 if character.isalpha() or unicodedata.category(character).startswith("M") else 0.0
