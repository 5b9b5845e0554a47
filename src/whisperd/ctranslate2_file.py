"""Reads where each variable lies in `model.bin`, the weights of a model in CTranslate2's format.

The file is little-endian: a version, the name and revision of the specification, the number of variables,
each with its name, shape, type and values, and last the aliases of variables. A string is preceded by its
length and followed by a zero byte. The file may be anything, so nothing in it is trusted.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "INT8",
    "NUMPY_TYPES",
    "Index",
    "UnreadableModel",
    "Variable",
    "aliases_bytes",
    "head_bytes",
    "read_index",
    "variable_bytes",
]

FLOAT32: Final = 0
INT8: Final = 1
BFLOAT16: Final = 5
NUMPY_TYPES: Final = {FLOAT32: "<f4", INT8: "i1", 2: "<i2", 3: "<i4", 4: "<f2", BFLOAT16: "<u2"}
"""numpy's name of each type, by CTranslate2's number. bfloat16, which numpy lacks, is the upper half of a
32-bit float."""

_VERSION: Final = 6
_SPECIFICATION: Final = "WhisperSpec"
_MOST_NAMES: Final = 100_000


class UnreadableModel(ValueError):
    """The file is not a valid model; the message says why, as a sentence without its full stop."""


@dataclass(frozen=True)
class Variable:
    """Type, shape and place of a variable's values."""

    shape: tuple[int, ...]
    type: int
    """A key of `NUMPY_TYPES`."""
    offset: int
    """In bytes, from the beginning of the file."""
    size_bytes: int


@dataclass(frozen=True)
class Index:
    """The contents of a file, without the values."""

    version: int
    revision: int
    variables: Mapping[str, Variable]
    """In the order of the file."""
    aliases: Mapping[str, str]
    """Other names of variables."""

    def find(self, name: str) -> Variable | None:
        """Return a variable by its name or an alias."""
        return self.variables.get(self.aliases.get(name, name))


def head_bytes(index: Index, count: int) -> bytes:
    """Return what precedes the variables in a file with `count` of them."""
    head = struct.pack("<I", index.version) + _string_bytes(_SPECIFICATION)
    return head + struct.pack("<II", index.revision, count)


def variable_bytes(name: str, type: int, shape: Sequence[int], size_bytes: int) -> bytes:
    """Return what precedes the values of a variable."""
    dimensions = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return _string_bytes(name) + dimensions + struct.pack("<BI", type, size_bytes)


def aliases_bytes(index: Index) -> bytes:
    """Return what follows the variables."""
    names = b"".join(_string_bytes(name) for pair in index.aliases.items() for name in pair)
    return struct.pack("<I", len(index.aliases)) + names


def read_index(file: BinaryIO) -> Index:
    """Read the index of a seekable file. Raises `UnreadableModel`, `OSError`."""
    size_bytes = file.seek(0, 2)
    file.seek(0)
    try:
        return _read_index(file, size_bytes)
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise UnreadableModel("model.bin is damaged") from error


def _read_index(file: BinaryIO, size_bytes: int) -> Index:
    version, specification = _number(file, "<I"), _string(file)
    if specification != _SPECIFICATION:  # it may be any text, so it is not quoted
        raise UnreadableModel("model.bin is not a Whisper model in CTranslate2's format")
    if version > _VERSION:
        raise UnreadableModel(f"model.bin has version {version} of CTranslate2's format, which is too new")
    revision = _number(file, "<I")
    variables = [(_string(file), _variable(file, size_bytes)) for _ in range(_count(file))]
    aliases = [(_string(file), _string(file)) for _ in range(_count(file))]
    index = Index(version, revision, dict(variables), dict(aliases))
    if len(index.variables.keys() | index.aliases.keys()) < len(variables) + len(aliases):
        # It is unknown which of the two the library would use.
        raise UnreadableModel("model.bin has two variables of the same name")
    return index


def _variable(file: BinaryIO, end: int) -> Variable:
    shape = tuple(_number(file, "<I") for _ in range(_number(file, "B")))
    kind, size_bytes = _number(file, "B"), _number(file, "<I")
    if kind not in NUMPY_TYPES:
        raise UnreadableModel("model.bin has values of an unknown type")
    offset = file.tell()
    if file.seek(size_bytes, 1) > end:
        raise UnreadableModel("model.bin is truncated")
    return Variable(shape, kind, offset, size_bytes)


def _count(file: BinaryIO) -> int:
    count = _number(file, "<I")
    if count > _MOST_NAMES:
        raise UnreadableModel("model.bin is damaged")
    return count


def _number(file: BinaryIO, format: str) -> int:
    return int(struct.unpack(format, file.read(struct.calcsize(format)))[0])


def _string(file: BinaryIO) -> str:
    """Read a string: its length in bytes, then these bytes, the last of which is zero."""
    return file.read(_number(file, "<H"))[:-1].decode()


def _string_bytes(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data
