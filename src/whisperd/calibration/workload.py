"""What a trial computes: the shipped speech, cut as a job's windows are, and how its text is judged. Pure.

The long recordings are repeated until every replica has full batches, since that is what a long file
brings. The short ones, on which a small margin shows first, come once each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from whisperd.calibration.values import Setting
from whisperd.speech import Sample, word_errors, words
from whisperd.worker.protocol import BatchParams, DecodeOptions, EngineWindow, WindowResult

__all__ = ["Portion", "audio_s", "count_words", "portions", "wrong_words"]

LONG_S = 10.0
"""A recording that is as long as that is one of the long ones."""
LEAST_LONG_WINDOWS = 8


@dataclass(frozen=True)
class Portion:
    """Recordings that are computed as one batch."""

    samples: tuple[Sample, ...]

    def batch(self, options: DecodeOptions) -> BatchParams:
        """What a worker gets."""
        windows = (EngineWindow(pcm=sample.pcm, group=group) for group, sample in enumerate(self.samples))
        return BatchParams(windows=tuple(windows), options=options)


def portions(setting: Setting, samples: Sequence[Sample]) -> list[Portion]:
    """The batches of one pass: as many for each replica, the short recordings at last."""
    long = [sample for sample in samples if sample.duration_s >= LONG_S]
    short = [sample for sample in samples if sample.duration_s < LONG_S]
    at_once = setting.replicas * setting.batch_size
    count = at_once * math.ceil(LEAST_LONG_WINDOWS / at_once)
    repeated = list(islice(cycle(long), count))
    return [*_parted(repeated, setting.batch_size), *_parted(short, 1)]


def audio_s(work: Sequence[Portion]) -> float:
    """Seconds of speech in it."""
    return sum(sample.duration_s for portion in work for sample in portion.samples)


def count_words(samples: Sequence[Sample]) -> int:
    """Words that are said in recordings."""
    return sum(len(words(sample.text)) for sample in samples)


def wrong_words(results: Iterable[tuple[Portion, Sequence[WindowResult]]]) -> int:
    """How many words are wrong in the worst text of each recording."""
    worst: dict[str, int] = {}
    for portion, answers in results:
        for sample, answer in zip(portion.samples, answers, strict=True):
            text = " ".join(segment.text for segment in answer.segments)
            worst[sample.name] = max(worst.get(sample.name, 0), word_errors(sample.text, text))
    return sum(worst.values())


def _parted(samples: Sequence[Sample], size: int) -> list[Portion]:
    return [Portion(tuple(samples[start : start + size])) for start in range(0, len(samples), size)]
