"""The Silero voice activity model, streamed. Runs in the decoder process only.

The model processes 512 samples at a time together with the 64 before them, and carries state from frame to
frame. Many frames go through it in one call, which is several times faster than one by one.

It runs twice: on the original sound, and on the sound scaled to a low level. On the original, the model
misses most of a loud telephone recording, and quiet speech; at a low level, it misses speech in noise. Where
no one speaks, neither run finds speech (measured, docs/benchmarks.md). So speech found by either counts.

Sound below the human voice is removed first: breath, wind, steps and handling noise hide speech from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view

from whisperd.audio.speech import FRAME_SAMPLES

__all__ = ["SileroModel", "VoiceActivity"]

MODEL_FILE = "faster_whisper/assets/silero_vad_v6.onnx"
CONTEXT_SAMPLES = 64
# The moving average of 6.3 ms, taken twice, is subtracted. That lowers 25 Hz to a twelfth, 50 Hz to 0.3, and
# the deepest voices (80 Hz) to 0.6. It is exact in integers, so pieces of any size give the same result.
AVERAGE_SAMPLES = 101
MARGIN_SAMPLES = AVERAGE_SAMPLES - 1  # needed on each side
HISTORY_SAMPLES = MARGIN_SAMPLES + CONTEXT_SAMPLES
STATE_SHAPE = (1, 1, 128)
# About two seconds: enough for speed, and short enough for prompt results.
FRAMES_PER_CALL = 64
# Level that is indistinguishable from silence, and the number of such frames after which the model no longer
# runs, so that a day of silence takes a minute.
SILENT_LEVEL = 2
SILENT_FRAMES = 128
# The mean amplitude, of 1, to which the loudest frame of the last seconds is scaled; quiet sound has a limit.
LOW_LEVEL = 0.003
MAX_GAIN = 8.0
LOUDNESS_HALF_LIFE_FRAMES = 300
# At a low level, the onset of any sound resembles speech a little.
LOW_LEVEL_TRUST = np.float32(0.95)


class SileroModel:
    """The loaded network; it is stateless and can serve recordings one after the other."""

    def __init__(self, bundle: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena never returns memory
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(bundle / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )

    def run(self, frames: Any, hidden: Any, cell: Any) -> tuple[Any, Any, Any]:
        """Return the probabilities of frames of 64 + 512 samples, and the state after them."""
        probabilities, hidden, cell = self._session.run(None, {"input": frames, "h": hidden, "c": cell})
        return probabilities, hidden, cell


class VoiceActivity:
    """Computes speech probability and loudness for each frame of one recording.

    The model is called with the same frames regardless of the sizes of the input pieces, so the result is the
    same to the last bit.
    """

    def __init__(self, model: SileroModel, frames_per_call: int = FRAMES_PER_CALL) -> None:
        self._model = model
        self._call_samples = frames_per_call * FRAME_SAMPLES
        self._original: Any = (np.zeros(STATE_SHAPE, np.float32),) * 2
        self._low_level: Any = self._original
        self._loudness = 0.0  # of the loudest frame, decaying over time
        self._samples = np.zeros(HISTORY_SAMPLES, np.int16)  # those before the next frame, then those of it
        self._silent_frames = 0  # consecutive, up to now

    @property
    def memory(self) -> bytes:
        """Its state after the frames so far, except their last samples."""
        numbers = np.array([self._loudness, self._silent_frames])
        return b"".join(state.tobytes() for state in (*self._original, *self._low_level, numbers))

    def skip(self, samples: Any) -> None:
        """Skip 16-bit samples, which were processed before."""
        self._samples = np.concatenate([self._samples, samples])[-HISTORY_SAMPLES:]

    def restore(self, memory: bytes) -> None:
        """Restore the state it had after the skipped samples; `memory` is that state."""
        states = np.frombuffer(memory[:-16], np.float32).reshape((2, 2, *STATE_SHAPE))
        self._original, self._low_level = states
        self._loudness, silent_frames = np.frombuffer(memory[-16:], np.float64).tolist()
        self._silent_frames = int(silent_frames)

    def feed(self, samples: Any) -> Iterator[tuple[float, float]]:
        """Take 16-bit samples; yields probability and loudness of each frame, once 6 ms more are known."""
        self._samples = np.concatenate([self._samples, samples])
        while len(self._samples) >= HISTORY_SAMPLES + self._call_samples + MARGIN_SAMPLES:
            yield from self._run(self._call_samples)

    def finish(self) -> Iterator[tuple[float, float]]:
        """End the recording; the last frame is padded with silence."""
        missing = -(len(self._samples) - HISTORY_SAMPLES) % FRAME_SAMPLES
        self._samples = np.concatenate([self._samples, np.zeros(missing + MARGIN_SAMPLES, np.int16)])
        if rest := len(self._samples) - HISTORY_SAMPLES - MARGIN_SAMPLES:
            yield from self._run(rest)

    def _run(self, length: int) -> Iterator[tuple[float, float]]:
        """Process the next samples, `length` of them, which are whole frames."""
        samples, own = self._samples, self._samples[HISTORY_SAMPLES:][:length]
        self._samples = samples[length:]
        count = length // FRAME_SAMPLES
        if own.max() > SILENT_LEVEL or own.min() < -SILENT_LEVEL:
            self._silent_frames = 0
        elif self._silent_frames >= SILENT_FRAMES:
            yield from repeat((0.0, 0.0), count)
            return
        else:
            self._silent_frames += count
        voice = _without_rumble(samples[: HISTORY_SAMPLES + length + MARGIN_SAMPLES])
        frames = sliding_window_view(voice, CONTEXT_SAMPLES + FRAME_SAMPLES)[::FRAME_SAMPLES]
        levels = np.abs(frames[:, CONTEXT_SAMPLES:]).mean(axis=1)
        original, *self._original = self._model.run(frames, *self._original)
        low_level, *self._low_level = self._model.run(frames * self._gains(levels), *self._low_level)
        probabilities = np.maximum(original, low_level * LOW_LEVEL_TRUST)
        yield from zip(probabilities.ravel().tolist(), levels.tolist(), strict=True)

    def _gains(self, levels: Any) -> Any:
        """Return the gain of each frame, `(frames, 1)`, which does not depend on later frames."""
        gains = np.empty((len(levels), 1), np.float32)
        fading = 0.5 ** (1 / LOUDNESS_HALF_LIFE_FRAMES)
        for at, level in enumerate(levels.tolist()):
            self._loudness = max(level, self._loudness * fading)
            gains[at] = min(LOW_LEVEL / max(self._loudness, 1e-9), MAX_GAIN)
        return gains


def _without_rumble(samples: Any) -> Any:
    """Return 16-bit samples as floats from -1 to 1, less their moving average, and without the margins."""
    average = _moving_sum(_moving_sum(samples.astype(np.int64))) / AVERAGE_SAMPLES**2
    return ((samples[MARGIN_SAMPLES:-MARGIN_SAMPLES] - average) / 32768).astype(np.float32)


def _moving_sum(values: Any) -> Any:
    sums = np.concatenate([[0], values.cumsum()])
    return sums[AVERAGE_SAMPLES:] - sums[:-AVERAGE_SAMPLES]
