"""Read AU files in G.711 µ-law: one byte per sample, half the size of WAV, and recognised as well.

This keeps the package small. Python's own modules for both formats were removed in version 3.13.
"""

from __future__ import annotations

import struct
import sys
from array import array

__all__ = ["SAMPLE_RATE", "read_au"]

SAMPLE_RATE = 16_000
_HEADER = struct.Struct(">4s5I")
"""Magic, offset of the samples, their size in bytes, encoding, samples per second, channels."""
_MAGIC, _MU_LAW = b".snd", 1
_BIAS = 132


def read_au(data: bytes) -> bytes:
    """Decode to 16 kHz mono signed 16-bit little-endian PCM. Raises `ValueError` for any other format."""
    magic, offset, size, encoding, rate, channels = _HEADER.unpack_from(data)
    if (magic, encoding, rate, channels) != (_MAGIC, _MU_LAW, SAMPLE_RATE, 1):
        raise ValueError("not an AU file in 16 kHz mono µ-law")
    levels = [_level(code) for code in range(256)]
    pcm = array("h", (levels[code] for code in data[offset : offset + size]))
    if sys.byteorder == "big":
        pcm.byteswap()
    return pcm.tobytes()


def _level(code: int) -> int:
    """Decode a byte to its sample (ITU-T recommendation G.711, table 2)."""
    inverted = ~code & 0xFF
    magnitude = (((inverted & 0x0F) << 3) + _BIAS << (inverted >> 4 & 7)) - _BIAS
    return -magnitude if inverted & 0x80 else magnitude
