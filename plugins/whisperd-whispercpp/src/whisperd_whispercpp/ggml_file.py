"""What a model file of whisper.cpp says of itself. Pure: an open file in, values out, no library.

A header, the Mel filters, the tokens, the tensors. All of it little-endian; numbers of 32 bits, texts and
tokens with their length before them, dimensions of a tensor from the innermost to the outermost.

The library believes what a file says: how long a text is, how many dimensions a tensor has, and that each
tensor comes once. So a file is read here first. Nothing that it says is used before it is known to be in
bounds, and every tensor has to be one that a model of these sizes has.
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
"""How many languages a model knows, by the size of its vocabulary: the library numbers its tokens by that."""
_MEL_BANDS: Final = (80, 128)
_SPECTRUM: Final = 201
_AUDIO_CONTEXT, _TEXT_CONTEXT = 1500, 448
_LEAST_TOKENS: Final = 50_256
"""Those of text. The others have a meaning, and need not be in the file."""
_MOST_LAYERS, _MOST_STATE = 128, 8192
_MOST_TOKENS_BYTES, _MOST_NAME_BYTES = 4 << 20, 128
_MOST_DIMENSIONS: Final = 3
_QUANTISATION_VERSION: Final = 1000
"""What the version of the quantised formats is multiplied with in the number of the file's type."""


class NotAModel(ValueError):
    """The file is no model that can be loaded. Says why, as the end of a sentence."""


class TensorType(NamedTuple):
    """How numbers are stored: in blocks of so many numbers, of so many bytes."""

    name: str
    number: int
    """As a tensor has it (`ggml_type`)."""
    file_number: int
    """As the header has it (`ggml_ftype`), without a version."""
    block: int
    block_bytes: int

    @property
    def compute_type(self) -> str:
        """What is computed in: with quantised weights in whole numbers."""
        return {"f32": "float32", "f16": "float16"}.get(self.name, "int8")

    @property
    def number_bytes(self) -> float:
        """Bytes for each number."""
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
    """A file that the library can load."""

    header: Header
    type: TensorType
    """Of the large tensors."""
    parameters: int


def read_facts(file: BinaryIO, size_bytes: int) -> ModelFacts:
    """See `whisperd.plugins.ModelFormat.read`. Raises `NotAModel`, OSError."""
    found = read_file(file, size_bytes)
    return ModelFacts(
        format="ggml",
        precision=found.type.name,
        compute_type=found.type.compute_type,
        parameters=found.parameters,
        language_count=_LANGUAGES[found.header.vocabulary],
    )


def read_file(file: BinaryIO, size_bytes: int) -> GgmlFile:
    """Walk through a file from its beginning to its very end. Raises `NotAModel`, OSError."""
    reader = _Reader(file, size_bytes)
    if reader.take(len(MAGIC)) != MAGIC:
        raise NotAModel("it does not begin as a file of ggml does")
    *sizes, file_type = reader.numbers(len(Header._fields) + 1)
    header, type_ = Header(*sizes), _BY_FILE_NUMBER.get(file_type % _QUANTISATION_VERSION)
    if type_ is None or file_type < 0:
        raise NotAModel(f"its weights are of a type that is not known ({file_type})")
    _check_header(header)
    _pass_filters(reader, header)
    _pass_tokens(reader, header)
    return GgmlFile(header, type_, _pass_tensors(reader, header, type_))


def coreml_encoder(path: Path) -> Path:
    """Where the library looks for an encoder for CoreML: all quantised files of a model have the same one."""
    return path.with_name(re.sub(r"-q[^-]_[^-]$", "", path.stem) + "-encoder.mlmodelc")


class _Reader:
    """Reads a file on, and never beyond its end."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes
        self._position = 0
        file.seek(0)

    @property
    def is_at_end(self) -> bool:
        return self._position == self._size

    def take(self, count: int) -> bytes:
        """So many bytes."""
        self._go(count)
        data = self._file.read(count)
        if len(data) < count:
            raise self._cut_off()
        return data

    def numbers(self, count: int) -> tuple[int, ...]:
        """So many whole numbers."""
        return struct.unpack(f"<{count}i", self.take(4 * count))

    def skip(self, count: int) -> None:
        """Pass over so many bytes."""
        self._go(count)
        self._file.seek(self._position)

    def skip_texts(self, count: int, most_bytes: int) -> None:
        """Pass over so many texts, each with its length before it: at most so many bytes."""
        start = self._position
        data = self.take(min(most_bytes, self._size - start))
        end = 0
        for _ in range(count):
            end += 4 + int.from_bytes(data[end : end + 4], "little")
            if end > len(data):
                raise self._cut_off() if len(data) < most_bytes else NotAModel("its tokens have no end")
        self._position = start
        self.skip(end)

    def _go(self, count: int) -> None:
        if count > self._size - self._position:
            raise self._cut_off()
        self._position += count

    def _cut_off(self) -> NotAModel:
        return NotAModel(f"it is cut off, or damaged: more is to come behind its {self._size} bytes")


def _check_header(header: Header) -> None:
    """Refuse sizes that no Whisper model has, or that the library cannot compute with."""
    if header.vocabulary not in _LANGUAGES:
        raise NotAModel(
            f"it has {header.vocabulary} tokens, and Whisper has {', '.join(map(str, _LANGUAGES))}"
        )
    if header.mel_bands not in _MEL_BANDS:
        raise NotAModel(f"it hears {header.mel_bands} bands of sound, and Whisper 80 or 128")
    if (header.audio_context, header.text_context) != (_AUDIO_CONTEXT, _TEXT_CONTEXT):
        raise NotAModel(
            f"its contexts are {header.audio_context} and {header.text_context}, and those of Whisper "
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


def _pass_filters(reader: _Reader, header: Header) -> None:
    if (shape := reader.numbers(2)) != (header.mel_bands, _SPECTRUM):
        raise NotAModel(f"its Mel filters are {shape[0]} of {shape[1]} numbers")
    reader.skip(4 * header.mel_bands * _SPECTRUM)


def _pass_tokens(reader: _Reader, header: Header) -> None:
    (count,) = reader.numbers(1)
    if not _LEAST_TOKENS <= count <= header.vocabulary:
        raise NotAModel(f"it names {count} of its {header.vocabulary} tokens")
    reader.skip_texts(count, _MOST_TOKENS_BYTES)


def _pass_tensors(reader: _Reader, header: Header, large: TensorType) -> int:
    """Each tensor that the model has, once, and then the end of the file; how many numbers they are."""
    missing = dict(_tensors(header, large))
    parameters = sum(prod(shape) for shape, _ in missing.values())
    while not reader.is_at_end:
        dimensions, length, number = reader.take(4), reader.take(4), reader.take(4)
        shape = reader.numbers(_length(dimensions, _MOST_DIMENSIONS, "shape"))
        name = reader.take(_length(length, _MOST_NAME_BYTES, "name")).decode("ascii", "replace")
        if name not in missing:
            raise NotAModel(f"it has a tensor too many ({name:.40})")
        expected, type_ = missing.pop(name)
        if shape != expected:
            raise NotAModel(f"{name} has the shape {shape} and not {expected}")
        if int.from_bytes(number, "little") != type_.number:
            raise NotAModel(f"{name} is not stored as {type_.name}")
        if shape[0] % type_.block:
            raise NotAModel(f"{name} has rows of {shape[0]} numbers, which no blocks of {type_.name} fit")
        reader.skip(prod(shape) // type_.block * type_.block_bytes)
    if missing:
        raise NotAModel(f"{len(missing)} of its tensors are missing, such as {next(iter(missing))}")
    return parameters


def _length(data: bytes, most: int, what: str) -> int:
    length = int.from_bytes(data, "little")
    if length > most:
        raise NotAModel(f"it is damaged: a {what} has the length {length}")
    return length


# What a model has


_Tensors = Iterator[tuple[str, tuple[tuple[int, ...], TensorType]]]
"""Names, each with a shape and how the numbers are stored."""


def _tensors(header: Header, large: TensorType) -> _Tensors:
    """Every tensor of a model."""
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
