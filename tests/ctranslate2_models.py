"""Tiny weights in CTranslate2's format, following the description in its own converter."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["string", "variable", "weights"]


def string(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def variable(name: str, shape: tuple[int, ...], kind: int, data: bytes) -> bytes:
    dimensions = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return string(name) + dimensions + struct.pack("<BI", kind, len(data)) + data


def weights(
    *, heads: bytes | None = b"\x06\x00", alias: bool = False, layers: Sequence[object] = range(4)
) -> bytes:
    """Return a `model.bin` whose decoder has this number of heads and these layers."""
    variables = [
        variable(f"decoder/layer_{layer}/ffn/linear_0/weight", (2, 3), 0, bytes(24)) for layer in layers
    ]
    variables.append(variable("encoder/layer_0/ffn/linear_0/weight", (1,), 1, bytes(1)))
    if heads is not None:
        variables.append(variable("encoder/num_heads" if alias else "decoder/num_heads", (), 2, heads))
    aliases = [string("decoder/num_heads") + string("encoder/num_heads")] if alias else []
    return b"".join(
        [
            struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(variables)),
            *variables,
            struct.pack("<I", len(aliases)),
            *aliases,
        ]
    )
