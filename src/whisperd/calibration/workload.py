"""The workload of a trial: shipped speech, cut into windows like a job's, and the scoring of its text. Pure.

A long file yields windows of all lengths up to the longest; so do the recordings, alone and joined. They are
repeated until every replica has full batches. Clips (the short recordings, which suffer first from a small
margin) are transcribed once each and alone, as users send them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from whisperd.calibration.values import Setting
from whisperd.speech import Sample, word_errors, words
from whisperd.worker.protocol import SAMPLE_RATE, BatchParams, DecodeOptions, EngineWindow, WindowResult

__all__ = ["Portion", "audio_s", "clips", "count_words", "portions", "windows", "wrong_words"]

CLIP_S = 10.0
"""A shorter recording is a clip."""
PAUSE_S = 0.5
"""The silence between two recordings that are joined into one window."""
LEAST_WINDOWS = 8
"""The minimum number of windows of the simulated long file."""


@dataclass(frozen=True)
class Portion:
    """Recordings that are transcribed as one batch."""

    samples: tuple[Sample, ...]

    def batch(self, options: DecodeOptions) -> BatchParams:
        """Return the batch for a worker."""
        windows = (EngineWindow(pcm=sample.pcm, group=group) for group, sample in enumerate(self.samples))
        return BatchParams(windows=tuple(windows), options=options)


def portions(setting: Setting, samples: Sequence[Sample], *, once: bool = False) -> list[Portion]:
    """Return the batches of one pass: equally many for each replica, then the clips.

    With `once`, each window occurs once.
    """
    distinct = windows(samples)
    at_once = setting.replicas * setting.batch_size
    count = len(distinct) if once else at_once * math.ceil(LEAST_WINDOWS / at_once)
    # As in jobs, windows of similar length are batched together.
    repeated = sorted(islice(cycle(distinct), count), key=lambda sample: sample.duration_s)
    return [*_parted(repeated, setting.batch_size), *clips(samples)]


def clips(samples: Sequence[Sample]) -> list[Portion]:
    """Return the short recordings, each as a batch."""
    return _parted([sample for sample in samples if sample.duration_s < CLIP_S], 1)


def windows(samples: Sequence[Sample]) -> list[Sample]:
    """Return windows like those of a long file: all long recordings joined, one alone; the same for clips."""
    long = [sample for sample in samples if sample.duration_s >= CLIP_S]
    short = [sample for sample in samples if sample.duration_s < CLIP_S]
    return [_joined(long), _joined(short), long[0], short[-1]]


def _joined(samples: Sequence[Sample]) -> Sample:
    pause = bytes(2 * int(PAUSE_S * SAMPLE_RATE))
    return Sample(
        name="+".join(sample.name for sample in samples),
        pcm=pause.join(sample.pcm for sample in samples),
        text=" ".join(sample.text for sample in samples),
        language=samples[0].language,
    )


def audio_s(work: Sequence[Portion]) -> float:
    """Return the seconds of speech in the portions."""
    return sum(sample.duration_s for portion in work for sample in portion.samples)


def count_words(work: Iterable[Portion]) -> int:
    """Return the number of words in the portions, counting each distinct window once."""
    texts = {sample.name: sample.text for portion in work for sample in portion.samples}
    return sum(len(words(text)) for text in texts.values())


def wrong_words(results: Iterable[tuple[Portion, Sequence[WindowResult]]]) -> int:
    """Return the number of wrong words in the worst text of each recording."""
    worst: dict[str, int] = {}
    for portion, answers in results:
        for sample, answer in zip(portion.samples, answers, strict=True):
            text = " ".join(segment.text for segment in answer.segments)
            worst[sample.name] = max(worst.get(sample.name, 0), word_errors(sample.text, text))
    return sum(worst.values())


def _parted(samples: Sequence[Sample], size: int) -> list[Portion]:
    return [Portion(tuple(samples[start : start + size])) for start in range(0, len(samples), size)]
