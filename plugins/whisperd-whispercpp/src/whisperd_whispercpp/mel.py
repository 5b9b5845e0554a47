"""The filter bank between spectrum and Mel spectrogram that Whisper was trained with."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["SPECTRUM_SIZE", "mel_filters"]

SAMPLE_RATE = 16_000
FOURIER_SIZE = 400
SPECTRUM_SIZE = FOURIER_SIZE // 2 + 1

# Slaney's scale (Auditory Toolbox, 1998): linear to 1000 Hz, logarithmic above.
_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def mel_filters(bands: int) -> Any:
    """Triangular filters `(bands, SPECTRUM_SIZE)`, each with the same area, as float32."""
    frequencies = np.linspace(0.0, SAMPLE_RATE / 2, SPECTRUM_SIZE)
    corners = _hz(np.linspace(0.0, _mel(SAMPLE_RATE / 2), bands + 2))
    widths = np.diff(corners)[:, None]
    distances = corners[:, None] - frequencies
    rising = -distances[:-2] / widths[:-1]
    falling = distances[2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    areas = (corners[2:] - corners[:-2])[:, None] / 2
    return (triangles / areas).astype(np.float32)


def _mel(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _HZ_PER_MEL
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _hz(mel: Any) -> Any:
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, logarithmic)
