"""Whether a text can be all that was said in a window, and what is done where it cannot.

A Whisper model may end its text where a sentence ends, though somebody else goes on speaking, or begin it
only where the last speaker does: the text is sure of itself, and half of it is missing. No score of the
decoder shows that; the time in which somebody speaks does, held against the text. Such a window is computed
again in two parts, cut in its longest pause, and the longer text is kept. Times are seconds from the
beginning of the window. Nothing here knows an engine: what is asked of it is what its protocol says.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median

import msgspec

from whisperd.worker.protocol import (
    SAMPLE_RATE,
    DecodeOptions,
    EngineSegment,
    EngineWindow,
    IsWanted,
    SpokenTime,
    WindowResult,
)
from whisperd.worker.rules import has_loop, is_poor, is_repetitive

__all__ = ["best_cut", "merge", "missing_s", "overlap_s", "spoken_letters", "transcribe_whole"]

Transcribe = Callable[[Sequence[EngineWindow], DecodeOptions], list[WindowResult]]
"""As `Engine.transcribe`."""

MISSING_S = 3.0
"""Speech without a text from which on something is missing. A detector takes a cough for speech, too."""
SLOWEST_LETTERS_PER_S = 8.0
"""Who speaks slowly says about ten letters a second while he speaks; pauses are not counted."""
SLOWER_THAN_OTHERS = 0.5
"""How much slower a sentence may be than the others of its window."""
MIN_PART_S = 2.0
"""No part of a window is shorter."""
MAX_DEPTH = 2
"""How often a window is halved."""
MIN_GAIN_LETTERS = 12
MIN_GAIN_RATIO = 1.1
"""How much more text the parts must have, to be believed."""


def transcribe_whole(
    transcribe: Transcribe,
    windows: Sequence[EngineWindow],
    options: DecodeOptions,
    is_wanted: IsWanted = lambda _window: True,
) -> list[WindowResult]:
    """Have a batch transcribed, and again in parts what cannot be all of it; one result for each window."""
    results = transcribe(windows, options)
    if len(results) != len(windows):  # the daemon says what is wrong with such an engine
        return results
    return [
        _completed(transcribe, window, result, options, MAX_DEPTH) if is_wanted(window) else result
        for window, result in zip(windows, results, strict=True)
    ]


def missing_s(segments: Sequence[EngineSegment], spoken: Sequence[SpokenTime]) -> float:
    """The longest time in which somebody speaks that no text accounts for."""
    spoken_in = [overlap_s(spoken, one.start, one.end) for one in segments]
    rates = [
        spoken_letters(one.text) / spoken_s
        for one, spoken_s in zip(segments, spoken_in, strict=True)
        if spoken_s > 0
    ]
    rate = max(SLOWEST_LETTERS_PER_S, SLOWER_THAN_OTHERS * median(rates)) if rates else SLOWEST_LETTERS_PER_S
    # Words tell more exactly where nothing was heard: one of them then lasts for seconds.
    texts = [text for one in segments for text in (one.words or (one,))]
    within = [overlap_s(spoken, one.start, one.end) - spoken_letters(one.text) / rate for one in texts]
    edges = [0.0, *(edge for one in texts for edge in (one.start, one.end)), math.inf]
    between = [overlap_s(spoken, *gap) for gap in zip(edges[::2], edges[1::2], strict=True)]
    return max(0.0, *within, *between)


def spoken_letters(text: str) -> float:
    """About how many letters a text has when it is said: a figure is said as a word, a sign as a syllable."""
    return sum(map(_letters, text))


def best_cut(spoken: Sequence[SpokenTime], duration_s: float) -> float | None:
    """Where to halve a window: in its longest pause, of those in its middle; None if it is too short."""
    edge_s = max(MIN_PART_S, duration_s / 5)
    if duration_s < 2 * edge_s:
        return None
    pauses = [(before[1], after[0]) for before, after in pairwise(spoken)]
    in_the_middle = [
        (end_s - start_s, (start_s + end_s) / 2)
        for start_s, end_s in pauses
        if edge_s <= (start_s + end_s) / 2 <= duration_s - edge_s
    ]
    return max(in_the_middle, default=(0.0, duration_s / 2))[1]


def merge(first: WindowResult, second: WindowResult, cut_s: float) -> WindowResult:
    """The result of a window whose parts lie before and behind `cut_s`."""
    moved = (_later(one, cut_s) for one in second.segments)
    return msgspec.structs.replace(first, segments=(*first.segments, *moved))


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
    if window.spoken is None or depth == 0 or not _is_doubtful(result, window.spoken):
        return result
    if (cut_s := best_cut(window.spoken, window.duration_s)) is None:
        return result
    options = msgspec.structs.replace(options, language=result.language)
    parts = _halves(window, cut_s)
    first, second = (
        _completed(transcribe, part, heard, options, depth - 1)
        for part, heard in zip(parts, transcribe(parts, options), strict=True)
    )
    again = merge(first, second, cut_s)
    again = msgspec.structs.replace(again, language_probability=result.language_probability)
    return again if _is_better(again, result) else result


def _is_doubtful(result: WindowResult, spoken: Sequence[SpokenTime]) -> bool:
    return _goes_in_circles(result) or missing_s(result.segments, spoken) > MISSING_S


def _goes_in_circles(result: WindowResult) -> bool:
    return any(is_repetitive(one.compression_ratio) or has_loop(one.tokens) for one in result.segments)


def _is_better(again: WindowResult, result: WindowResult) -> bool:
    if _goes_in_circles(again) or any(is_poor(0.0, one.avg_logprob) for one in again.segments):
        return False
    if _goes_in_circles(result):
        return True
    before, now = (sum(spoken_letters(one.text) for one in of.segments) for of in (result, again))
    return now >= max(before + MIN_GAIN_LETTERS, before * MIN_GAIN_RATIO)


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
    """What is spoken between two times, counted from the first."""
    for begin_s, stop_s in spoken:
        if (begin_s := max(begin_s, start_s)) < (stop_s := min(stop_s, end_s)):
            yield begin_s - start_s, stop_s - start_s


def overlap_s(spoken: Sequence[SpokenTime], start_s: float, end_s: float) -> float:
    """How long somebody speaks between two times."""
    return sum(stop_s - begin_s for begin_s, stop_s in _within(spoken, start_s, end_s))


def _letters(character: str) -> float:
    if character.isdigit():
        return 4.0
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return 2.5 if character.isalpha() else 0.0
    return 1.0 if character.isalpha() or unicodedata.category(character).startswith("M") else 0.0
