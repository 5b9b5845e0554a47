"""Finds the pauses in speech by the loudness of the audio. For engines, since it needs numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from whisperd.worker.protocol import SAMPLE_RATE
from whisperd.worker.words import Pause

__all__ = ["find_pauses"]

STEP_S = 0.01
STEPS_HEARD = 3
"""The loudness at a step is averaged over this many steps."""
MIN_PAUSE_S = 0.12
"""A shorter one may be the closure of a consonant, before its burst."""
LEAST_DB, LEAST_RANGE_DB = -75.0, 12.0
"""The floor of the loudness, and the least range between quiet and loud in which pauses can be found."""
QUIET_PERCENT, LOUD_PERCENT = 5, 90
THRESHOLD = 0.25
"""The most loudness of a pause, as a fraction of the range in decibels from quiet to loud."""


def find_pauses(samples: Any) -> list[Pause]:
    """Return the pauses of a window; `samples` are floats between -1 and 1."""
    step = round(STEP_S * SAMPLE_RATE)
    count = len(samples) // step
    if count < STEPS_HEARD:
        return []
    power = np.mean(np.square(samples[: count * step].reshape(count, step), dtype=np.float64), axis=1)
    smooth = np.convolve(power, np.full(STEPS_HEARD, 1 / STEPS_HEARD), mode="same")
    loudness = np.maximum(10 * np.log10(np.maximum(smooth, 1e-12)), LEAST_DB)
    recorded = loudness[loudness > LEAST_DB]  # digital silence is artificial: it says nothing of the rest
    if not len(recorded):
        return []
    quiet, loud = np.percentile(recorded, [QUIET_PERCENT, LOUD_PERCENT])
    if loud - quiet < LEAST_RANGE_DB:
        return []
    is_quiet = loudness < quiet + THRESHOLD * (loud - quiet)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_quiet, [False]])))
    runs = edges.reshape(-1, 2) * STEP_S
    return [Pause(float(start), float(end)) for start, end in runs if end - start >= MIN_PAUSE_S]
