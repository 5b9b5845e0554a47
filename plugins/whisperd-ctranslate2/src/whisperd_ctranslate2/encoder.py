"""What the encoder makes of windows: from samples over mel spectrograms to what a text is decoded from.

The cost of the encoder grows faster than linearly with its context, that of the decoder hardly does, and
only what has the same length is decoded together. So on a processor each window is encoded with the context
that it needs, and filled up to a common one with what the encoder makes of silence. To the texts that is no
more than a longer margin (measured, docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import ctranslate2
import numpy as np

from whisperd.worker.protocol import EngineWindow
from whisperd_ctranslate2.model import WhisperModel

__all__ = ["FRAMES_PER_POSITION", "Encoder", "samples_of", "some_of"]

FRAMES_PER_POSITION: Final = 2
"""Mel frames for each position of the output."""
_SILENCE_FRAMES: Final = 400
_BEGINNING_FRAMES: Final = 100
"""The beginning is like nothing else, also of silence."""


class Encoder:
    """That of a loaded model; several threads may use it at once."""

    def __init__(self, whisper: WhisperModel) -> None:
        self._model = whisper.library
        self._extract = whisper.extract
        self._is_on_cpu = self._model.device == "cpu"

    def encode(self, windows: Sequence[EngineWindow], contexts: Sequence[int], frames: int) -> Any:
        """What the encoder makes of windows: `(windows, positions, width)`, 32-bit floats.

        `contexts` are the frames that it hears of each, silence behind the speech; `frames` how many the
        output stands for. A GPU hears `frames` of all.
        """
        if not self._is_on_cpu:
            features = np.stack([self._features(window.pcm, frames) for window in windows])
            # Of several GPUs it is not known which one decodes.
            to_cpu = len(self._model.device_index) > 1
            return self._model.encode(ctranslate2.StorageView.from_array(features), to_cpu=to_cpu)
        # One after the other: together they cost as much, in more memory.
        each = [self._heard(window.pcm, heard) for window, heard in zip(windows, contexts, strict=True)]
        positions = frames // FRAMES_PER_POSITION
        return ctranslate2.StorageView.from_array(
            np.concatenate([self._filled_up(one, positions) for one in each])
        )

    def _heard(self, pcm: bytes, frames: int) -> Any:
        features = self._features(pcm, frames)
        return np.asarray(self._model.encode(ctranslate2.StorageView.from_array(features[None])))

    def _filled_up(self, encoded: Any, positions: int) -> Any:
        if missing := positions - encoded.shape[1]:
            return np.concatenate([encoded, np.repeat(self._silence, missing, axis=1)], axis=1)
        return encoded

    @cached_property
    def _silence(self) -> Any:
        """Silence, wherever it is: `(1, 1, width)`, the mean over all positions but the first ones."""
        heard = self._heard(b"", _SILENCE_FRAMES)
        return heard[:, _BEGINNING_FRAMES // FRAMES_PER_POSITION :].mean(axis=1, keepdims=True)

    def _features(self, pcm: bytes, frames: int) -> Any:
        samples = samples_of(pcm)
        wanted = frames * self._extract.hop_length
        samples = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
        return np.ascontiguousarray(self._extract(samples, padding=0)[:, :frames], dtype=np.float32)


def some_of(encoded: Any, indices: Sequence[int], positions: int | None = None) -> Any:
    """What the encoder made of some windows, on a processor; of each no more than so many positions."""
    some = np.asarray(encoded)[list(indices), :positions]
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(some))


def samples_of(pcm: bytes) -> Any:
    """Samples as 32-bit floats of at most 1, from 16-bit ones."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0
