"""Tiny model files in whisper.cpp's format, following the description in its own converter."""

from __future__ import annotations

import struct
from collections.abc import Iterator

STATE = 64
VOCABULARY = 51_864
TOKENS = 50_256

# A type's number in a tensor and in the header, the number of values in a block, and the block's bytes.
TYPES = {
    "f32": (0, 0, 1, 4),
    "f16": (1, 1, 1, 2),
    "q4_0": (2, 2002, 32, 18),
    "q4_1": (3, 2003, 32, 20),
    "q5_0": (6, 2008, 32, 22),
    "q5_1": (7, 2009, 32, 24),
    "q8_0": (8, 2007, 32, 34),
}


def ggml_model(
    kind: str = "q4_0", *, vocabulary: int = VOCABULARY, state: int = STATE, bands: int = 80
) -> bytes:
    """Return a complete model with one layer in the encoder and the decoder; all weights are zero."""
    return b"".join([*beginning(kind, vocabulary, state, bands), *tensors(kind, vocabulary, state, bands)])


def beginning(kind: str, vocabulary: int, state: int, bands: int) -> Iterator[bytes]:
    """Yield the header, the filters and the vocabulary, which precede the tensors."""
    sizes = (vocabulary, 1500, state, 1, 1, 448, state, 1, 1, bands)
    yield struct.pack("<I10ii", 0x67676D6C, *sizes, TYPES[kind][1])
    yield struct.pack("<2i", bands, 201) + bytes(4 * bands * 201)
    yield struct.pack("<i", TOKENS) + TOKENS * (struct.pack("<i", 1) + b"a")


def tensors(kind: str, vocabulary: int, state: int, bands: int) -> Iterator[bytes]:
    """Yield every tensor, in the order of OpenAI's checkpoints."""
    for side, context in (("decoder", 448), ("encoder", 1500)):
        yield tensor(f"{side}.positional_embedding", (state, context), "f32")
        if side == "decoder":
            yield tensor("decoder.token_embedding.weight", (state, vocabulary), kind)
        else:
            for name, inputs in (("conv1", bands), ("conv2", state)):
                yield tensor(f"encoder.{name}.weight", (3, inputs, state), "f32" if kind == "f32" else "f16")
                yield tensor(f"encoder.{name}.bias", (1, state), "f32")
        for attention in ("attn", "cross_attn") if side == "decoder" else ("attn",):
            for part in ("query", "key", "value", "out"):
                yield tensor(f"{side}.blocks.0.{attention}.{part}.weight", (state, state), kind)
                if part != "key":
                    yield tensor(f"{side}.blocks.0.{attention}.{part}.bias", (state,), "f32")
            yield from norm(f"{side}.blocks.0.{attention}_ln", state)
        for part, (inputs, outputs) in (("0", (state, 4 * state)), ("2", (4 * state, state))):
            yield tensor(f"{side}.blocks.0.mlp.{part}.weight", (inputs, outputs), kind)
            yield tensor(f"{side}.blocks.0.mlp.{part}.bias", (outputs,), "f32")
        yield from norm(f"{side}.blocks.0.mlp_ln", state)
        yield from norm("decoder.ln" if side == "decoder" else "encoder.ln_post", state)


def norm(name: str, state: int) -> Iterator[bytes]:
    """Yield the two vectors of a normalisation layer."""
    for part in ("weight", "bias"):
        yield tensor(f"{name}.{part}", (state,), "f32")


def tensor(name: str, shape: tuple[int, ...], kind: str) -> bytes:
    """Return one tensor with its header."""
    number, _, block, block_bytes = TYPES[kind]
    count = 1
    for size in shape:
        count *= size
    head = struct.pack(f"<3i{len(shape)}i", len(shape), len(name), number, *shape)
    return head + name.encode() + bytes(count // block * block_bytes)
