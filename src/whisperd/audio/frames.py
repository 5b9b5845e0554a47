"""Converts decoded frames to samples at our rate. Runs in the decoder process only."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import Any

import av
import numpy as np

from whisperd.audio.messages import SAMPLE_RATE

__all__ = ["Packer", "Polarity", "Resampler", "remove_impossible_values", "silence", "without_first"]

# Longer silence is made in pieces, so that memory stays bounded.
SILENCE_PIECE_SAMPLES = SAMPLE_RATE
# PyAV accesses one plane more than there are, which crashes with eight planes, the size of its table.
MAX_PLANES = 7
# With more channels and an unknown layout, ffmpeg drops the fourth, taking it for a low-frequency channel.
MAX_UNPLACED_CHANNELS = 2
# Sample formats that can be inverted.
KINDS: dict[str, Any] = {"s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
# How strongly two channels must be each other's negative, and the share of full scale from which that counts.
OPPOSITE = 0.5
LEAST_LOUDNESS = 0.001
# How much of the audio so far counts after another frame, and how many frames are not compared after one of
# ordinary stereo, to save time.
FADING = 0.95
FRAMES_SKIPPED = 15
# Recorders that store 32-bit floats may exceed full scale by 60 dB, lossy codecs a little; more is damage.
MAX_AMPLITUDE = 1000.0


class Resampler:
    """Resamples to 16 kHz and one channel layout, even if the input format changes within a file."""

    def __init__(self, layout: str, position: int) -> None:
        self._layout = av.AudioLayout(layout)
        self._resampler: Any = None
        self._averaged = 0  # the number of channels to average; 0: all are mixed according to the layout
        self._input: tuple[str, str, int] | None = None  # sample format, channel layout, rate
        self._input_samples = 0  # since the last flush
        self._flushed = position  # samples put out up to the last flush
        self._put_out = position

    @property
    def position(self) -> int:
        """Samples put out so far, plus those still inside."""
        if self._input is None:
            return self._put_out
        return self._flushed + self._input_samples * SAMPLE_RATE // self._input[2]

    def next_start(self, frame: Any) -> tuple[int, int] | None:
        """Return where another resampler can begin with the same output: after how many samples from the next
        frame on, and the position of its first output sample. None where this resampler is about to be reset.

        Output samples coincide with input samples only now and then: at 44.1 kHz on every 441st.
        """
        if self._input is not None and _shape(frame) != self._input:
            return None
        left_out = -self._input_samples % (frame.sample_rate // gcd(frame.sample_rate, SAMPLE_RATE))
        taken = self._input_samples + left_out
        return left_out, self._flushed + taken * SAMPLE_RATE // frame.sample_rate

    def resample(self, frame: Any) -> Iterator[Any]:
        """Take a frame; yields blocks of samples."""
        shape = _shape(frame)
        if shape != self._input:
            yield from self.flush()
            self._input = shape
            self._averaged = _to_average(frame.layout) if self._layout.nb_channels == 1 else 0
            layout = frame.layout if self._averaged else self._layout
            self._resampler = av.AudioResampler(format="s16", layout=layout, rate=SAMPLE_RATE)
        self._input_samples += frame.samples
        frame.pts = None  # the timeline is tracked elsewhere
        yield from self._push(frame)

    def insert_silence(self, samples: int) -> Iterator[Any]:
        """Put out silence after everything taken so far."""
        if samples > 0:
            yield from self.flush()
            self._put_out += samples
            self._flushed = self._put_out
            yield from silence(self._layout.nb_channels, samples)

    def flush(self) -> Iterator[Any]:
        """Put out the samples still inside."""
        if self._resampler is not None:
            yield from self._push(None)
        self._reset()

    def _reset(self) -> None:
        self._resampler = self._input = None
        self._input_samples = 0
        self._flushed = self._put_out

    def _push(self, frame: Any) -> Iterator[Any]:
        try:
            found = self._resampler.resample(frame)
        except av.FFmpegError:  # an impossible rate or layout, which would fail every time
            self._reset()
            raise
        for resampled in found:
            if resampled is not None and resampled.samples:
                self._put_out += resampled.samples
                block = resampled.to_ndarray().reshape(resampled.samples, -1)
                if self._averaged:
                    block = block[:, : self._averaged].mean(axis=1, keepdims=True).astype(np.int16)
                yield np.ascontiguousarray(block.T)


class Polarity:
    """Inverts the second of two channels while it is the negative of the first, as wrong wiring makes it.

    Otherwise almost nothing would remain of their mix. The last audio decides, weighted by loudness, because
    lossy codecs keep little of quiet passages.
    """

    def __init__(self) -> None:
        self._product = self._loudness = 0.0  # of the last frames, fading
        self._frames_to_skip = 0

    def fix(self, frame: Any) -> None:
        """Invert the second channel of this frame if the last audio, and this frame, call for it."""
        if self._frames_to_skip:
            self._frames_to_skip -= 1
            return
        kind = KINDS.get(frame.format.name.removesuffix("p"))
        if kind is None or frame.layout.nb_channels != 2:
            return
        plane = frame.planes[-1]
        values = np.frombuffer(plane, kind).copy()  # there may be uninitialised padding at the end
        if frame.format.is_planar:
            left, right = np.frombuffer(frame.planes[0], kind)[: frame.samples], values[: frame.samples]
        else:
            left, right = values[: 2 * frame.samples].reshape(-1, 2).T
        product, loudness = _compare(left, right)
        if loudness <= frame.samples * LEAST_LOUDNESS**2:
            return
        self._product = FADING * self._product + product
        self._loudness = FADING * self._loudness + loudness
        if self._product < -OPPOSITE * self._loudness:
            if product < 0:
                turn: Any = np.invert if np.issubdtype(kind, np.integer) else np.negative
                turn(right, out=right)
                plane.update(values.tobytes())
        elif product > -OPPOSITE * loudness:
            self._frames_to_skip = FRAMES_SKIPPED


def _compare(left: Any, right: Any) -> tuple[float, float]:
    """Return the dot product of two channels, and that of the louder one with itself."""
    scale = np.iinfo(left.dtype).max if np.issubdtype(left.dtype, np.integer) else 1.0
    one, other = left / scale, right / scale
    return float(one.dot(other)), float(max(one.dot(one), other.dot(other)))


class Packer:
    """Converts frames with many planes to the interleaved format, which has one."""

    def __init__(self) -> None:
        self._input: tuple[str, str, int] | None = None
        self._resampler: Any = None

    def pack(self, frame: Any) -> Any:
        """Return the frame, with at most `MAX_PLANES` planes."""
        if not frame.format.is_planar or frame.layout.nb_channels <= MAX_PLANES:
            return frame
        if _shape(frame) != self._input:
            format_name = frame.format.name.removesuffix("p")
            self._resampler = av.AudioResampler(format_name, frame.layout, frame.sample_rate)
            self._input = _shape(frame)
        pts, time_base = frame.pts, frame.time_base
        # without a change of rate, input and output frames correspond
        (packed,) = self._resampler.resample(frame)
        packed.pts, packed.time_base = pts, time_base
        return packed


def silence(channels: int, samples: int) -> Iterator[Any]:
    """Yield blocks of silence."""
    for first in range(0, samples, SILENCE_PIECE_SAMPLES):
        yield np.zeros((channels, min(SILENCE_PIECE_SAMPLES, samples - first)), np.int16)


def _to_average(layout: Any) -> int:
    """Return how many channels, from the first on, are averaged instead of mixed by ffmpeg; 0: none.

    Their positions are unknown, as in files of multitrack recorders, or so unusual that ffmpeg refuses to mix
    them, such as two rear channels alone. The first channel of ambisonic sound has everything; the others
    would cancel what comes from some directions.
    """
    name: str = layout.name
    count: int = layout.nb_channels
    if name.startswith("ambisonic"):
        return 1
    if name == f"{count} channels":
        return count if count > MAX_UNPLACED_CHANNELS else 0
    return count if name == "binaural" or name.startswith(f"{count} channels (") else 0


def _shape(frame: Any) -> tuple[str, str, int]:
    """Return the input format of a resampler."""
    return frame.format.name, frame.layout.name, frame.sample_rate


def without_first(frame: Any, count: int) -> Any:
    """Return a frame without its first samples and its time. Raises `ValueError` for exotic formats."""
    first = count if frame.format.is_planar else count * frame.layout.nb_channels
    samples = np.ascontiguousarray(frame.to_ndarray()[:, first:])
    rest = av.AudioFrame.from_ndarray(samples, format=frame.format.name, layout=frame.layout.name)
    rest.sample_rate = frame.sample_rate
    return rest


def remove_impossible_values(frame: Any) -> None:
    """Replace NaN, infinity and absurd values by silence, before the resampler spreads them."""
    kind = {"flt": np.float32, "dbl": np.float64}.get(frame.format.name.removesuffix("p"))
    if kind is None:
        return
    for plane in frame.planes:
        values = np.frombuffer(plane, kind)
        # Comparisons with NaN are false, so this is true only if all values are valid.
        if values.min() >= -MAX_AMPLITUDE and values.max() <= MAX_AMPLITUDE:
            continue
        with np.errstate(invalid="ignore"):
            plane.update(np.where(np.abs(values) <= MAX_AMPLITUDE, values, kind(0)).tobytes())
