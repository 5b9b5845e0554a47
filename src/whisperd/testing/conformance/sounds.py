"""Sounds that are no speech, and how texts are compared."""

from __future__ import annotations

import random
from array import array
from typing import Final

from whisperd.speech import word_errors, words
from whisperd.worker.protocol import SAMPLE_RATE

__all__ = ["MAX_WINDOW_S", "differs", "noise", "silence"]

MAX_WINDOW_S: Final = 30.0
MAX_DIFFERENCE: Final = 0.4
"""Of a window's words. Numbers are rounded otherwise in a batch than alone, and a word or two may change."""


def silence(seconds: float) -> bytes:
    """PCM of nothing at all."""
    return bytes(2 * round(seconds * SAMPLE_RATE))


def noise(seconds: float) -> bytes:
    """PCM of noise, the same every time."""
    chance = random.Random(seconds)  # noqa: S311 - no secret
    samples = array("h", chance.randbytes(2 * round(seconds * SAMPLE_RATE)))
    return array("h", (sample >> 3 for sample in samples)).tobytes()


def differs(reference: str, text: str) -> bool:
    """Whether a text says something else than another."""
    return word_errors(reference, text) > MAX_DIFFERENCE * max(len(words(reference)), len(words(text)))
