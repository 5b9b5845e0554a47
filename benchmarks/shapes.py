"""Untrained models of any size: they take the memory of real ones, and are available everywhere.

Nearly all of their weights are zero. All texts are equally unlikely to them, and each ends after
`TEXT_TOKENS` tokens, because from there on the position encoding equals the end-of-text token.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whisperd.ctranslate2_file import (
    NUMPY_TYPES,
    Index,
    Variable,
    aliases_bytes,
    head_bytes,
    read_index,
    variable_bytes,
)

__all__ = ["SHAPES", "TEXT_TOKENS", "Shape", "make_model"]

TEXT_TOKENS = 120
"""The number of tokens in 26 s of fast speech in English or German; clear English has 80."""
_FIRST_TOKEN, _END_OF_TEXT = 1000, 50257
_MOST_TOKENS = 448
_BASE_WIDTH = 512
"""The width of the model that serves as the template."""
_HEAD_WIDTH = 64


@dataclass(frozen=True)
class Shape:
    """The dimensions in which Whisper models differ."""

    width: int
    encoder_layers: int
    decoder_layers: int


SHAPES = {
    "tiny": Shape(384, 4, 4),
    "base": Shape(512, 6, 6),
    "small": Shape(768, 12, 12),
    "medium": Shape(1024, 24, 24),
    "large-v3": Shape(1280, 32, 32),
    "large-v3-turbo": Shape(1280, 32, 4),
}


def make_model(base: Path, shape: Shape, folder: Path) -> None:
    """Make a model of that shape, with `base` as the template."""
    folder.mkdir()
    for file in base.iterdir():
        if file.name not in ("model.bin", "config.json"):
            shutil.copy(file, folder / file.name)
    config = json.loads((base / "config.json").read_bytes())
    heads = [[shape.decoder_layers - 1, head] for head in range(6)]  # about as many as in real models
    (folder / "config.json").write_text(json.dumps({**config, "alignment_heads": heads}))
    with (base / "model.bin").open("rb") as source, (folder / "model.bin").open("wb") as target:
        index = read_index(source)
        variables = list(_variables(index, shape))
        target.write(head_bytes(index, len(variables)))
        for name, variable in variables:
            if "f" in NUMPY_TYPES[variable.type]:
                size = tuple(
                    number // _BASE_WIDTH * shape.width if number % _BASE_WIDTH == 0 else number
                    for number in variable.shape
                )
                size_bytes = 2 * math.prod(size)
                target.write(variable_bytes(name, variable.type, size, size_bytes))
                begin = target.tell()
                offset, values = _learnt(name, shape.width)
                target.seek(begin + offset)
                target.write(values)
                target.truncate(begin + size_bytes)  # holes take no disk space
                target.seek(begin + size_bytes)
            else:
                source.seek(variable.offset)
                values = source.read(variable.size_bytes)
                if name.endswith("num_heads"):
                    values = (shape.width // _HEAD_WIDTH).to_bytes(len(values), "little")
                target.write(variable_bytes(name, variable.type, variable.shape, len(values)) + values)
        target.write(aliases_bytes(index))


def _variables(index: Index, shape: Shape) -> Iterator[tuple[str, Variable]]:
    """Yield the variables of the template, with those of the first layer repeated for every layer."""
    for name, variable in index.variables.items():
        side, layer, *rest = name.split("/")
        if layer == "layer_0":
            for number in range(shape.encoder_layers if side == "encoder" else shape.decoder_layers):
                yield "/".join((side, f"layer_{number}", *rest)), variable
        elif not layer.removeprefix("layer_").isdigit():
            yield name, variable


def _learnt(name: str, width: int) -> tuple[int, bytes]:
    """Return the offset in bytes of the nonzero part of a matrix, and that part."""
    chance = random.Random(0)
    directions = [chance.choices((-1.0, 1.0), k=width) for _ in range(TEXT_TOKENS + 1)]
    louder = 4.0 if "position" in name else 1.0  # than the preceding token
    *text, end = [struct.pack(f"<{width}e", *(louder * one for one in direction)) for direction in directions]
    match name:
        case "decoder/layer_norm/gamma":
            return 0, struct.pack(f"<{width}e", *[1.0] * width)
        case "decoder/embeddings/weight":
            return _FIRST_TOKEN * len(end), b"".join(
                [*text, bytes((_END_OF_TEXT - _FIRST_TOKEN - TEXT_TOKENS) * len(end)), end]
            )
        case "decoder/position_encodings/encodings":
            return 0, b"".join(text) + end * (_MOST_TOKENS - TEXT_TOKENS)
    return 0, b""
