"""Reads and validates whisper.cpp's model files. Pure: an open file in, values out, no library.

A file has a header, the Mel filters, the tokens and the tensors. All of it is little-endian, with 32-bit
numbers, length-prefixed strings and tokens, and the dimensions of a tensor from innermost to outermost.

The library trusts a file: the length of a string, the number of a tensor's dimensions, and that each tensor
occurs once. So a file is validated here first. No value is used before its bounds are checked, and every
tensor must be one that a model of these sizes has.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from whisperd.plugins import ModelFacts

__all__ = [
    "MAGIC",
    "TYPES",
    "GgmlFile",
    "Header",
    "NotAModel",
    "TensorType",
    "coreml_encoder",
    "read_facts",
    "read_file",
]

MAGIC: Final = struct.pack("<I", 0x67676D6C)

_ENGLISH_VOCABULARY: Final = 51_864
_LANGUAGES: Final = {_ENGLISH_VOCABULARY: 1, 51_865: 99, 51_866: 100}
"""The number of a model's languages, by vocabulary size, from which the library derives its token numbers."""
_MEL_BANDS: Final = (80, 128)
_SPECTRUM: Final = 201
_AUDIO_CONTEXT, _TEXT_CONTEXT = 1500, 448
_LEAST_TOKENS: Final = 50_256
"""The text tokens. The others are special tokens, which need not be in the file."""
_MOST_LAYERS, _MOST_STATE = 128, 8192
_MOST_TOKENS_BYTES, _MOST_NAME_BYTES = 4 << 20, 128
_MOST_DIMENSIONS: Final = 3
_QUANTISATION_VERSION: Final = 1000
"""The factor of the quantised formats' version in the number of the file's type."""


class NotAModel(ValueError):
    """Raised if a file cannot be loaded as a model, with the reason as the end of a sentence."""


class TensorType(NamedTuple):
    """How numbers are stored: in blocks of `block` numbers and `block_bytes` bytes."""

    name: str
    number: int
    """The number in a tensor (`ggml_type`)."""
    file_number: int
    """The number in the header (`ggml_ftype`), without a version."""
    block: int
    block_bytes: int

    @property
    def compute_type(self) -> str:
        """The compute type: integers for quantised weights."""
        return {"f32": "float32", "f16": "float16"}.get(self.name, "int8")

    @property
    def number_bytes(self) -> float:
        """The average bytes per number."""
        return self.block_bytes / self.block


TYPES: Final = {
    one.name: one
    for one in (
        TensorType("f32", 0, 0, 1, 4),
        TensorType("f16", 1, 1, 1, 2),
        TensorType("q4_0", 2, 2, 32, 18),
        TensorType("q4_1", 3, 3, 32, 20),
        TensorType("q5_0", 6, 8, 32, 22),
        TensorType("q5_1", 7, 9, 32, 24),
        TensorType("q8_0", 8, 7, 32, 34),
        TensorType("q2_k", 10, 10, 256, 84),
        TensorType("q3_k", 11, 11, 256, 110),
        TensorType("q4_k", 12, 12, 256, 144),
        TensorType("q5_k", 13, 13, 256, 176),
        TensorType("q6_k", 14, 14, 256, 210),
    )
}
_BY_FILE_NUMBER: Final = {one.file_number: one for one in TYPES.values()}


class Header(NamedTuple):
    """The sizes of a model, in the order of the file."""

    vocabulary: int
    audio_context: int
    audio_state: int
    audio_heads: int
    audio_layers: int
    text_context: int
    text_state: int
    text_heads: int
    text_layers: int
    mel_bands: int


class GgmlFile(NamedTuple):
    """The facts about a file that the library can load."""

    header: Header
    type: TensorType
    """The type of the large tensors."""
    parameters: int


def read_facts(file: BinaryIO, size_bytes: int) -> ModelFacts:
    """Return the facts about a file; see `whisperd.plugins.ModelFormat.read`. Raises `NotAModel`, OSError."""
    found = read_file(file, size_bytes)
    return ModelFacts(
        format="ggml",
        precision=found.type.name,
        compute_type=found.type.compute_type,
        parameters=found.parameters,
        language_count=_LANGUAGES[found.header.vocabulary],
    )


def read_file(file: BinaryIO, size_bytes: int) -> GgmlFile:
    """Read and validate a file from beginning to end. Raises `NotAModel`, OSError."""
    reader = _Reader(file, size_bytes)
    if reader.take(len(MAGIC)) != MAGIC:
        raise NotAModel("it does not begin like a ggml file")
    *sizes, file_type = reader.numbers(len(Header._fields) + 1)
    header, type_ = Header(*sizes), _BY_FILE_NUMBER.get(file_type % _QUANTISATION_VERSION)
    if type_ is None or file_type < 0:
        raise NotAModel(f"its weights have an unknown type ({file_type})")
    _check_header(header)
    _check_filters(reader, header)
    _check_tokens(reader, header)
    return GgmlFile(header, type_, _check_tensors(reader, header, type_))


def coreml_encoder(path: Path) -> Path:
    """Return where the library looks for a CoreML encoder, which all quantised files of a model share."""
    return path.with_name(re.sub(r"-q[^-]_[^-]$", "", path.stem) + "-encoder.mlmodelc")


class _Reader:
    """Reads a file sequentially, and never beyond its end."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes
        self._position = 0
        file.seek(0)

    @property
    def is_at_end(self) -> bool:
        return self._position == self._size

    def take(self, count: int) -> bytes:
        """Read `count` bytes."""
        self._advance(count)
        data = self._file.read(count)
        if len(data) < count:
            raise self._cut_off()
        return data

    def numbers(self, count: int) -> tuple[int, ...]:
        """Read `count` integers."""
        return struct.unpack(f"<{count}i", self.take(4 * count))

    def skip(self, count: int) -> None:
        """Skip `count` bytes."""
        self._advance(count)
        self._file.seek(self._position)

    def skip_texts(self, count: int, most_bytes: int) -> None:
        """Skip `count` length-prefixed strings, of at most `most_bytes` in all."""
        start = self._position
        data = self.take(min(most_bytes, self._size - start))
        end = 0
        for _ in range(count):
            end += 4 + int.from_bytes(data[end : end + 4], "little")
            if end > len(data):
                raise self._cut_off() if len(data) < most_bytes else NotAModel("its tokens have no end")
        self._position = start
        self.skip(end)

    def _advance(self, count: int) -> None:
        if count > self._size - self._position:
            raise self._cut_off()
        self._position += count

    def _cut_off(self) -> NotAModel:
        return NotAModel(f"it is cut off or damaged: data is missing after its {self._size} bytes")


def _check_header(header: Header) -> None:
    """Reject sizes that no Whisper model has, or that the library cannot compute with."""
    if header.vocabulary not in _LANGUAGES:
        raise NotAModel(
            f"it has {header.vocabulary} tokens, but Whisper has {', '.join(map(str, _LANGUAGES))}"
        )
    if header.mel_bands not in _MEL_BANDS:
        raise NotAModel(f"it has {header.mel_bands} bands of sound, but Whisper has 80 or 128")
    if (header.audio_context, header.text_context) != (_AUDIO_CONTEXT, _TEXT_CONTEXT):
        raise NotAModel(
            f"its contexts are {header.audio_context} and {header.text_context}, but those of Whisper are "
            f"{_AUDIO_CONTEXT} and {_TEXT_CONTEXT}"
        )
    if header.audio_state != header.text_state:
        raise NotAModel("its encoder does not fit its decoder")
    for state, heads, layers in (
        (header.audio_state, header.audio_heads, header.audio_layers),
        (header.text_state, header.text_heads, header.text_layers),
    ):
        in_bounds = 0 < heads <= state <= _MOST_STATE and 0 < layers <= _MOST_LAYERS
        if not in_bounds or state % heads:
            raise NotAModel(f"no model has {layers} layers of {heads} heads with {state} numbers")


def _check_filters(reader: _Reader, header: Header) -> None:
    if (shape := reader.numbers(2)) != (header.mel_bands, _SPECTRUM):
        raise NotAModel(f"its Mel filters are {shape[0]} of {shape[1]} numbers")
    reader.skip(4 * header.mel_bands * _SPECTRUM)


def _check_tokens(reader: _Reader, header: Header) -> None:
    (count,) = reader.numbers(1)
    if not _LEAST_TOKENS <= count <= header.vocabulary:
        raise NotAModel(f"it names {count} of its {header.vocabulary} tokens")
    reader.skip_texts(count, _MOST_TOKENS_BYTES)


def _check_tensors(reader: _Reader, header: Header, large: TensorType) -> int:
    """Check that each tensor of the model occurs once, and nothing else. Return their number of values."""
    missing = dict(_tensors(header, large))
    parameters = sum(prod(shape) for shape, _ in missing.values())
    while not reader.is_at_end:
        dimensions, length, number = reader.take(4), reader.take(4), reader.take(4)
        shape = reader.numbers(_length(dimensions, _MOST_DIMENSIONS, "shape"))
        name = reader.take(_length(length, _MOST_NAME_BYTES, "name")).decode("ascii", "replace")
        if name not in missing:
            raise NotAModel(f"it has an unexpected tensor ({name:.40})")
        expected, type_ = missing.pop(name)
        if shape != expected:
            raise NotAModel(f"{name} has the shape {shape} instead of {expected}")
        if int.from_bytes(number, "little") != type_.number:
            raise NotAModel(f"{name} is not stored as {type_.name}")
        if shape[0] % type_.block:
            raise NotAModel(
                f"{name} has rows of {shape[0]} numbers, which do not divide into blocks of {type_.name}"
            )
        reader.skip(prod(shape) // type_.block * type_.block_bytes)
    if missing:
        raise NotAModel(f"{len(missing)} of its tensors are missing, such as {next(iter(missing))}")
    return parameters


def _length(data: bytes, most: int, what: str) -> int:
    length = int.from_bytes(data, "little")
    if length > most:
        raise NotAModel(f"it is damaged: a {what} has the length {length}")
    return length


# The tensors of a model


_Tensors = Iterator[tuple[str, tuple[tuple[int, ...], TensorType]]]
"""Names, each with a shape and a type."""


def _tensors(header: Header, large: TensorType) -> _Tensors:
    """Yield every tensor of a model."""
    exact = TYPES["f32"]
    convolutions = large if large == exact else TYPES["f16"]
    state, text = header.audio_state, header.text_state
    yield "encoder.positional_embedding", ((state, header.audio_context), exact)
    for name, inputs in (("conv1", header.mel_bands), ("conv2", state)):
        yield f"encoder.{name}.weight", ((3, inputs, state), convolutions)
        yield f"encoder.{name}.bias", ((1, state), exact)
    yield "decoder.positional_embedding", ((text, header.text_context), exact)
    yield "decoder.token_embedding.weight", ((text, header.vocabulary), large)
    for name in ("encoder.ln_post", "decoder.ln"):
        yield from _layer(name, (state,), exact, exact)
    for layer in range(header.audio_layers):
        yield from _block(f"encoder.blocks.{layer}", state, ("attn",), large, exact)
    for layer in range(header.text_layers):
        yield from _block(f"decoder.blocks.{layer}", text, ("attn", "cross_attn"), large, exact)


def _block(
    name: str, state: int, attentions: tuple[str, ...], large: TensorType, exact: TensorType
) -> _Tensors:
    for attention in attentions:
        yield from _layer(f"{name}.{attention}_ln", (state,), exact, exact)
        for part in ("query", "value", "out"):
            yield from _layer(f"{name}.{attention}.{part}", (state, state), large, exact)
        yield f"{name}.{attention}.key.weight", ((state, state), large)
    yield from _layer(f"{name}.mlp_ln", (state,), exact, exact)
    yield from _layer(f"{name}.mlp.0", (state, 4 * state), large, exact)
    yield from _layer(f"{name}.mlp.2", (4 * state, state), large, exact)


def _layer(name: str, shape: tuple[int, ...], weights: TensorType, bias: TensorType) -> _Tensors:
    yield f"{name}.weight", (shape, weights)
    yield f"{name}.bias", (shape[-1:], bias)
