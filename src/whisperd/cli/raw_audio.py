"""Detection of encoded files that are sent as raw audio. Pure."""

from __future__ import annotations

import struct

__all__ = ["not_raw"]

_MARKS = (
    (0, b"fLaC", "a FLAC file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"ID3", "an MP3 file"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
    (0, b"FORM", "an AIFF file"),
    (0, b".snd", "an AU file"),
    (4, b"ftyp", "an MP4 file"),
)
_WAVE = struct.Struct("<4s4x4s4s4xHHI6xH")
"""`RIFF`, `WAVE` and `fmt `; then the encoding, channels, samples per second, and bits per sample."""
_PCM = (1, 0xFFFE)


def not_raw(beginning: bytes) -> str | None:
    """Return the kind of file, with its article; None if it may be 16-bit mono samples at 16 kHz.

    A WAV file of such samples passes: its header is too short to be heard.
    """
    for place, mark, kind in _MARKS:
        if beginning.startswith(mark, place):
            return kind
    if len(beginning) < _WAVE.size or not beginning.startswith(b"RIFF"):
        return None
    *marks, encoding, channels, rate, bits = _WAVE.unpack_from(beginning)
    if marks[1:] != [b"WAVE", b"fmt "] or (encoding in _PCM and (channels, rate, bits) == (1, 16_000, 16)):
        return None
    return (
        f"a WAV file (channels: {channels}, samples per second: {rate}, bits: {bits}, encoding: {encoding})"
    )
