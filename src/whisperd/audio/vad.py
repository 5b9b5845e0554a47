"""The Silero voice activity model, streamed. Runs in the decoder process only.

The model sees 512 samples at a time with the 64 before them, and carries a state from frame to
frame. Many frames go through it in one call, which is several times faster than one by one.

It listens twice: to the sound as it is, and to the sound brought to a low level. As it is, most of what
comes over a loud telephone is none to it, and what is quiet; at a low level, speech in noise is none. Where
nobody speaks, it hears nobody at either (measured, docs/benchmarks.md). What one of them hears is heard.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from whisperd.audio.speech import FRAME_SAMPLES

__all__ = ["SileroModel", "VoiceActivity"]

MODEL_FILE = "faster_whisper/assets/silero_vad_v6.onnx"
CONTEXT_SAMPLES = 64
STATE_SHAPE = (1, 1, 128)
# About two seconds: enough to be fast, little enough to be soon.
FRAMES_PER_CALL = 64
# What no recorder tells from nothing. After so many frames of it the model is not asked any more: a day of
# silence is done in a minute.
SILENT_LEVEL = 2
SILENT_FRAMES = 128
# The mean amplitude, of 1, to which the loudest of the last seconds is brought; with a limit for the quiet.
LOW_LEVEL = 0.003
MAX_GAIN = 8.0
LOUDNESS_HALF_LIFE_FRAMES = 300
# At a low level the beginning of any sound is a little like speech.
LOW_LEVEL_TRUST = np.float32(0.95)


class SileroModel:
    """The loaded network; it holds no state and serves one recording after the other."""

    def __init__(self, bundle: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # it would never give memory back
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(bundle / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )

    def run(self, frames: Any, hidden: Any, cell: Any) -> tuple[Any, Any, Any]:
        """Probabilities of frames of 64 + 512 samples, and the state after them."""
        probabilities, hidden, cell = self._session.run(None, {"input": frames, "h": hidden, "c": cell})
        return probabilities, hidden, cell


class VoiceActivity:
    """Speech probability and loudness of each frame of one recording.

    Whatever the sizes of the pieces it is fed with, the model is called with the same frames, so
    the result is the same to the last bit.
    """

    def __init__(self, model: SileroModel, frames_per_call: int = FRAMES_PER_CALL) -> None:
        self._model = model
        self._call_samples = frames_per_call * FRAME_SAMPLES
        self._as_it_is: Any = (np.zeros(STATE_SHAPE, np.float32),) * 2
        self._at_low_level: Any = self._as_it_is
        self._loudness = 0.0  # of the loudest frame, the less the longer ago
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._waiting: list[Any] = []
        self._waiting_samples = 0
        self._silent_frames = 0  # in a row, up to now

    @property
    def memory(self) -> bytes:
        """What it carries over from the frames that it has heard, but for their last samples."""
        numbers = np.array([self._loudness, self._silent_frames])
        return b"".join(state.tobytes() for state in (*self._as_it_is, *self._at_low_level, numbers))

    def skip(self, samples: Any) -> None:
        """Take 16-bit samples without listening: they were heard before."""
        last = _as_float(samples[-CONTEXT_SAMPLES:])
        self._context = np.concatenate([self._context, last])[-CONTEXT_SAMPLES:]

    def restore(self, memory: bytes) -> None:
        """Be as if it had listened to what was passed over; `memory` is what it had of it then."""
        states = np.frombuffer(memory[:-16], np.float32).reshape((2, 2, *STATE_SHAPE))
        self._as_it_is, self._at_low_level = states
        self._loudness, silent_frames = np.frombuffer(memory[-16:], np.float64).tolist()
        self._silent_frames = int(silent_frames)

    def feed(self, samples: Any) -> Iterator[tuple[float, float]]:
        """Take 16-bit samples; yield probability and loudness of each frame that is complete."""
        while len(samples):
            piece = samples[: self._call_samples - self._waiting_samples]
            samples = samples[len(piece) :]
            self._waiting.append(piece)
            self._waiting_samples += len(piece)
            if self._waiting_samples == self._call_samples:
                yield from self._run()

    def finish(self) -> Iterator[tuple[float, float]]:
        """The recording is over; the last frame is filled up with silence."""
        if missing := -self._waiting_samples % FRAME_SAMPLES:
            self._waiting.append(np.zeros(missing, np.int16))
        if self._waiting:
            yield from self._run()

    def _run(self) -> Iterator[tuple[float, float]]:
        waiting = np.concatenate(self._waiting)
        self._waiting, self._waiting_samples = [], 0
        count = len(waiting) // FRAME_SAMPLES
        if waiting.max() > SILENT_LEVEL or waiting.min() < -SILENT_LEVEL:
            self._silent_frames = 0
        elif self._silent_frames >= SILENT_FRAMES:
            self._context = _as_float(waiting[-CONTEXT_SAMPLES:])
            yield from repeat((0.0, 0.0), count)
            return
        else:
            self._silent_frames += count
        frames = _as_float(waiting).reshape(-1, FRAME_SAMPLES)
        before = np.vstack([self._context[None], frames[:-1, -CONTEXT_SAMPLES:]])
        self._context = frames[-1, -CONTEXT_SAMPLES:]
        frames = np.hstack([before, frames])
        levels = np.abs(frames[:, CONTEXT_SAMPLES:]).mean(axis=1)
        loud, *self._as_it_is = self._model.run(frames, *self._as_it_is)
        low, *self._at_low_level = self._model.run(frames * self._gains(levels), *self._at_low_level)
        probabilities = np.maximum(loud, low * LOW_LEVEL_TRUST)
        yield from zip(probabilities.ravel().tolist(), levels.tolist(), strict=True)

    def _gains(self, levels: Any) -> Any:
        """For each frame what it is multiplied by, `(frames, 1)`: it knows of no later frame."""
        gains = np.empty((len(levels), 1), np.float32)
        fading = 0.5 ** (1 / LOUDNESS_HALF_LIFE_FRAMES)
        for at, level in enumerate(levels.tolist()):
            self._loudness = max(level, self._loudness * fading)
            gains[at] = min(LOW_LEVEL / max(self._loudness, 1e-9), MAX_GAIN)
        return gains


def _as_float(samples: Any) -> Any:
    return samples.astype(np.float32) / 32768
