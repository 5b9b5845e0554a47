"""Whisper's input: the Mel spectrogram of audio, and the filter bank that computes it from the spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["mel_filters", "mel_spectrogram"]

SAMPLE_RATE = 16_000
FOURIER_SIZE = 400
STEP = 160
"""Samples from one frame to the next: 10 ms."""
SPECTRUM_SIZE = FOURIER_SIZE // 2 + 1

# Slaney's scale (Auditory Toolbox, 1998): linear to 1000 Hz, logarithmic above.
_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0

_HANN = np.hanning(FOURIER_SIZE + 1)[:-1].astype(np.float32)
_LEAST, _RANGE = -10.0, 8.0
"""Powers of ten: the least energy distinguished from none, and the range below the loudest."""


def mel_filters(bands: int) -> Any:
    """Return triangular filters `(bands, SPECTRUM_SIZE)` of equal area, as float32."""
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, SPECTRUM_SIZE)
    corners = _hz(np.linspace(0.0, _mel(SAMPLE_RATE / 2), bands + 2))
    widths = np.diff(corners)[:, None]
    distances = corners[:, None] - frequencies
    rising = -distances[:-2] / widths[:-1]
    falling = distances[2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    areas = (corners[2:] - corners[:-2])[:, None] / 2
    return (triangles / areas).astype(np.float32)


def mel_spectrogram(samples: Any, filters: Any, frames: int) -> Any:
    """Return the spectrogram `(bands, frames)` of float32 samples and silence, as in Whisper's training.

    It is the logarithm of the energy in each band, within 80 dB below the loudest (Radford et al.,
    "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, and its reference code). whisper.cpp
    computes the same with its own Fourier transform, which takes two to three times as long.
    """
    edge = FOURIER_SIZE // 2
    used = min(frames, (len(samples) + edge) // STEP + 1)
    length = (used - 1) * STEP + FOURIER_SIZE
    padded = np.zeros(max(length, edge + len(samples)), dtype=np.float32)
    padded[:edge] = samples[edge:0:-1]
    padded[edge : edge + len(samples)] = samples
    pieces = np.lib.stride_tricks.sliding_window_view(padded[:length], FOURIER_SIZE)[::STEP]
    spectrum = np.fft.rfft(pieces * _HANN)
    energy = filters @ (spectrum.real**2 + spectrum.imag**2).T
    found = np.full((len(filters), frames), _LEAST, dtype=np.float32)
    np.log10(np.maximum(energy, 10.0**_LEAST), out=found[:, :used], casting="same_kind")
    return (np.maximum(found, found.max() - _RANGE) + 4.0) / 4.0


def _mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_MEL
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _hz(mel: Any) -> Any:
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, logarithmic)
