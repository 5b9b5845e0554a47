"""Encodes windows: from samples, through mel spectrograms, to the encoder output that texts are decoded from.

The encoder's cost grows faster than linearly with its context, the decoder's hardly at all, and only outputs
of equal length can be decoded together. So on a CPU each window is encoded with the context that it needs,
and its output is padded to a common length with the encoder's output for silence. For the texts this is the
same as a longer margin (measured, docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import ctranslate2
import numpy as np

from whisperd.worker.protocol import EngineWindow
from whisperd_ctranslate2.model import WhisperModel

__all__ = ["FRAMES_PER_POSITION", "Encoder", "samples_of", "select"]

FRAMES_PER_POSITION: Final = 2
"""Mel frames per position of the output."""
_SILENCE_FRAMES: Final = 400
_BEGINNING_FRAMES: Final = 100
"""The output at the beginning is unlike the rest, even for silence."""


class Encoder:
    """The encoder of a loaded model. Thread-safe."""

    def __init__(self, whisper: WhisperModel) -> None:
        self._model = whisper.library
        self._extract = whisper.extract
        self._is_on_cpu = self._model.device == "cpu"

    def encode(self, windows: Sequence[EngineWindow], contexts: Sequence[int], frames: int) -> Any:
        """Return the encoder output of windows: `(windows, positions, width)`, 32-bit floats.

        `contexts` are the frames encoded of each window, with silence after the speech; `frames` is the
        number that the output represents. A GPU encodes `frames` of every window.
        """
        if not self._is_on_cpu:
            features = np.stack([self._features(window.pcm, frames) for window in windows])
            # With several GPUs, any of them may decode.
            to_cpu = len(self._model.device_index) > 1
            return self._model.encode(ctranslate2.StorageView.from_array(features), to_cpu=to_cpu)
        # One at a time: a batch costs as much, and needs more memory.
        each = [self._encode_one(window.pcm, own) for window, own in zip(windows, contexts, strict=True)]
        positions = frames // FRAMES_PER_POSITION
        return ctranslate2.StorageView.from_array(
            np.concatenate([self._padded(one, positions) for one in each])
        )

    def _encode_one(self, pcm: bytes, frames: int) -> Any:
        features = self._features(pcm, frames)
        return np.asarray(self._model.encode(ctranslate2.StorageView.from_array(features[None])))

    def _padded(self, encoded: Any, positions: int) -> Any:
        if missing := positions - encoded.shape[1]:
            return np.concatenate([encoded, np.repeat(self._silence, missing, axis=1)], axis=1)
        return encoded

    @cached_property
    def _silence(self) -> Any:
        """The output for silence: `(1, 1, width)`, the mean over all positions but the first ones."""
        encoded = self._encode_one(b"", _SILENCE_FRAMES)
        return encoded[:, _BEGINNING_FRAMES // FRAMES_PER_POSITION :].mean(axis=1, keepdims=True)

    def _features(self, pcm: bytes, frames: int) -> Any:
        samples = samples_of(pcm)
        wanted = frames * self._extract.hop_length
        samples = np.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
        return np.ascontiguousarray(self._extract(samples, padding=0)[:, :frames], dtype=np.float32)


def select(encoded: Any, indices: Sequence[int], positions: int | None = None) -> Any:
    """Return the encoder output of some windows, each cut to `positions` if given. On a CPU only."""
    some = np.asarray(encoded)[list(indices), :positions]
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(some))


def samples_of(pcm: bytes) -> Any:
    """Return 16-bit samples as 32-bit floats from -1 to 1."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0
