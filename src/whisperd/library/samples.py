"""Convert samples in memory to what a decoder takes: a WAV file. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeGuard

from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["SAMPLE_RATE_HZ", "is_samples", "wav_pieces"]

SAMPLE_RATE_HZ: Final = 16_000
"""Default rate of samples: that of Whisper's input, as in other Whisper libraries."""

_PCM, _FLOAT = 1, 3
_FORMATS: Final = {"h": (_PCM, 2), "i": (_PCM, 4), "l": (_PCM, 4), "f": (_FLOAT, 4), "d": (_FLOAT, 8)}
"""By the format code of a buffer: the format number in a WAV file, and the size of an item in bytes."""
_PIECE_BYTES: Final = 1024 * 1024
_UNKNOWN_SIZE: Final = 0xFFFF_FFFF


def is_samples(source: object) -> TypeGuard[Buffer]:
    """Whether this is an array of numbers, such as numpy's: any buffer whose items are not bytes."""
    if isinstance(source, bytes | bytearray):
        return False
    try:
        with memoryview(source) as view:  # type: ignore[arg-type]
            return view.format not in ("B", "c")
    except TypeError:
        return False


def wav_pieces(samples: Buffer, sample_rate: int) -> Iterator[bytes]:
    """Yield a WAV file of one channel, in pieces. Bytes are 16-bit integers, like raw PCM from a pipe.

    Integers have 16 or 32 bits; floats have 32 or 64 bits and lie between -1 and 1. Raises
    `audio.not_samples` and `audio.empty`.
    """
    if not 1_000 <= sample_rate <= 768_000:
        raise _not_samples(f"{sample_rate} Hz is not a sample rate", "Give the rate in hertz, such as 16000.")
    with memoryview(samples) as view:
        if view.ndim != 1:
            raise _not_samples(
                f"The array has {view.ndim} dimensions",
                "Mix it to one channel: samples.mean(axis=1).",
            )
        code = "h" if view.format in ("B", "c") else (view.format or "B").lstrip("<=@")
        kind, size = _FORMATS.get(code, (_PCM, 0))
        if size == 0 or (code != "h" and view.itemsize != size) or view.nbytes % size:
            raise _not_samples(
                f"An array of type {view.format!r} does not hold samples",
                "Convert the samples to 32-bit floats between -1 and 1, or to 16-bit integers.",
            )
        if view.nbytes == 0:
            raise WhisperdError("audio.empty", "There are no samples.", "Check that something was recorded.")
        yield _head(kind, size, view.nbytes, sample_rate)
        count = _PIECE_BYTES // view.itemsize
        for offset in range(0, len(view), count):
            yield view[offset : offset + count].tobytes()


def _head(kind: int, size: int, data_bytes: int, sample_rate: int) -> bytes:
    """Return the WAV header. A size beyond 32 bits is written as unknown, and the file read to its end."""
    form = struct.pack("<HHIIHH", kind, 1, sample_rate, sample_rate * size, size, 8 * size)
    return b"".join(
        (
            struct.pack("<4sI4s", b"RIFF", min(data_bytes + 36, _UNKNOWN_SIZE), b"WAVE"),
            struct.pack("<4sI", b"fmt ", len(form)) + form,
            struct.pack("<4sI", b"data", min(data_bytes, _UNKNOWN_SIZE)),
        )
    )


def _not_samples(what: str, fix: str) -> WhisperdError:
    return WhisperdError("audio.not_samples", f"{what}.", fix)
