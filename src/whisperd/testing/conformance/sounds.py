"""Test audio (speech, silence, noise), and the comparison of texts.

`sentence_de.au` comes from the public repository Picovoice/leopard (resources/audio_samples), in µ-law,
under the licence Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0).
"""

from __future__ import annotations

import random
from array import array
from importlib import resources
from typing import Final

from whisperd.audio import MAX_WINDOW_S
from whisperd.speech import Sample, read_au, samples, word_errors, words
from whisperd.worker.protocol import SAMPLE_RATE

__all__ = ["MAX_WINDOW_S", "all_samples", "differs", "noise", "silence"]

GERMAN: Final = "Der hinter diesem Portal liegenden Raum wurde als Leichenhalle genutzt."

MAX_DIFFERENCE: Final = 0.4
"""As a share of a window's words. Rounding differs between a batch and a single window, which may change a
word or two."""


def all_samples() -> tuple[Sample, ...]:
    """Return the shipped samples and one in German. Blocks."""
    pcm = read_au(resources.files(__package__).joinpath("sentence_de.au").read_bytes())
    return (*samples(), Sample("sentence_de", pcm, GERMAN, "de"))


def silence(seconds: float) -> bytes:
    """Return PCM of silence."""
    return bytes(2 * round(seconds * SAMPLE_RATE))


def noise(seconds: float) -> bytes:
    """Return PCM of noise, the same every time."""
    chance = random.Random(seconds)  # noqa: S311 - no secret
    loud = array("h", chance.randbytes(2 * round(seconds * SAMPLE_RATE)))
    return array("h", (sample >> 3 for sample in loud)).tobytes()


def differs(reference: str, text: str) -> bool:
    """Whether the texts differ by more than `MAX_DIFFERENCE`."""
    return word_errors(reference, text) > MAX_DIFFERENCE * max(len(words(reference)), len(words(text)))
