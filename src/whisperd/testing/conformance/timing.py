"""Checks of word times, for an engine that provides them. The daemon never asks another for them."""

from __future__ import annotations

import math
from typing import Final

from whisperd.testing.conformance.bench import Trial, text_of
from whisperd.testing.conformance.checks import Checks, Failure, Skip
from whisperd.testing.conformance.sounds import differs, silence
from whisperd.worker.protocol import EngineSegment, EngineWord, WindowResult

__all__ = ["TIMING", "check_words", "needs_words"]

TIMING: Checks[Trial] = Checks()

SILENCE_S: Final = 4.0
TOLERANCE_S: Final = 0.7
"""How far a word may extend into a silence. Alignment is usually accurate to about a fifth of a second."""
ROUNDED_S: Final = 0.002


def needs_words(trial: Trial) -> None:
    """Raise `Skip` for an engine without word times."""
    if not trial.info.word_times:
        raise Skip("the engine does not provide word times")


@TIMING
async def word_times(trial: Trial) -> None:
    """On request, a segment has the words of its text, one after the other and within it."""
    needs_words(trial)
    for sample, plain in zip(trial.bench.english, await trial.alone(), strict=True):
        if any(segment.words for segment in plain.segments):
            raise Failure("it returns words without being asked")
        (timed,) = await trial.transcribe(sample.pcm, word_times=True)
        if differs(text_of(plain), text_of(timed)):
            raise Failure(f"with word times {text_of(plain).strip()!r} becomes {text_of(timed).strip()!r}")
        check_words(timed)


@TIMING
async def word_places(trial: Trial) -> None:
    """If a silence separates two sentences, the words of each are on its side of the silence."""
    needs_words(trial)
    first, second = trial.bench.english[:2]
    begin_s, end_s = first.duration_s, first.duration_s + SILENCE_S
    (result,) = await trial.transcribe(first.pcm + silence(SILENCE_S) + second.pcm, word_times=True)
    for word in _words(result):
        if word.start < begin_s + TOLERANCE_S and word.end < begin_s + TOLERANCE_S:
            continue
        if word.start < end_s - TOLERANCE_S:
            raise Failure(
                f"{word.text.strip()!r} lasts from {word.start} s to {word.end} s, "
                f"but there is silence from {begin_s:.1f} s to {end_s:.1f} s"
            )
    sides = {"before": "", "after": ""}
    for word in _words(result):
        sides["before" if word.end < end_s - TOLERANCE_S else "after"] += word.text
    for (side, text), alone in zip(sides.items(), await trial.alone(), strict=False):
        if differs(text_of(alone), text):
            raise Failure(f"the words {side} the silence are {text.strip()!r}")


def check_words(result: WindowResult) -> None:
    """Raise `Failure` unless the words of each segment are valid."""
    for segment in result.segments:
        _check_words(segment)


def _check_words(segment: EngineSegment) -> None:
    text = "".join(word.text for word in segment.words)
    if text.split() != segment.text.split():
        raise Failure(f"the words of {segment.text.strip()!r:.100} are {text.strip()!r:.100}")
    reached_s = segment.start - ROUNDED_S
    for word in segment.words:
        if not (math.isfinite(word.start) and math.isfinite(word.end)):
            raise Failure(f"{word.text.strip()!r} lasts from {word.start} to {word.end}")
        if word.start < reached_s or word.end < word.start or word.end > segment.end + ROUNDED_S:
            raise Failure(
                f"{word.text.strip()!r}, from {word.start} s to {word.end} s, follows {reached_s:.2f} s "
                f"in a segment from {segment.start} s to {segment.end} s"
            )
        if not 0 <= word.probability <= 1:
            raise Failure(f"the probability of {word.text.strip()!r} is {word.probability}")
        reached_s = word.end


def _words(result: WindowResult) -> list[EngineWord]:
    return [word for segment in result.segments for word in segment.words]
