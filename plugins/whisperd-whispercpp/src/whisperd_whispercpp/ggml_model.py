"""Writes a model in the format that whisper.cpp loads: a header, the Mel filters, the tokens, the tensors.

`ggml_file` describes the format, and reads it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, BinaryIO, Literal

import numpy as np

from whisperd_whispercpp.ggml_file import MAGIC, TYPES, Header

__all__ = ["Precision", "write_header", "write_tensor"]

Precision = Literal["f32", "f16", "q8_0"]
"""How numbers are stored; `q8_0`: blocks of 32 8-bit integers, with one float16 as their factor."""

_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 2007}  # 2 is the version of the quantised formats
_BLOCK = TYPES["q8_0"].block


def write_header(
    file: BinaryIO, header: Header, precision: Precision, filters: Any, tokens: Sequence[bytes]
) -> None:
    """Write everything before the tensors."""
    file.write(MAGIC + struct.pack("<11i", *header, _FILE_TYPES[precision]))
    file.write(struct.pack("<2i", *filters.shape))
    file.write(np.ascontiguousarray(filters, dtype="<f4").tobytes())
    file.write(struct.pack("<i", len(tokens)))
    for token in tokens:
        file.write(struct.pack("<i", len(token)) + token)


def write_tensor(file: BinaryIO, name: str, values: Any, precision: Precision) -> None:
    """Write one tensor. For `q8_0`, the length of its rows must be a multiple of 32."""
    encoded = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(encoded), TYPES[precision].number))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)))
    file.write(encoded)
    file.write(_encode(values, precision))


def _encode(values: Any, precision: Precision) -> bytes:
    if precision == "q8_0":
        return _quantise(values)
    stored = np.ascontiguousarray(values, dtype="<f4" if precision == "f32" else "<f2")
    return bytes(stored.tobytes())


def _quantise(values: Any) -> bytes:
    blocks = np.asarray(values, dtype=np.float32).reshape(-1, _BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    factors = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    stored = np.empty(len(blocks), dtype=[("scale", "<f2"), ("values", "i1", _BLOCK)])
    stored["scale"] = scales[:, 0]
    stored["values"] = np.rint(blocks * factors)
    return bytes(stored.tobytes())
