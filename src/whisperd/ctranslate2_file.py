"""The weights of a model in CTranslate2's format, `model.bin`: where each variable lies in it.

It is little-endian: a version, the name and the revision of the specification, how many variables there are,
each with its name, shape, type and values, and last the names that stand for other variables. Strings have
their length before them and a zero byte behind. Nothing is believed: the file may be anything.
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
"""By CTranslate2's number of the type. What numpy lacks is the upper half of a 32-bit float."""

_VERSION: Final = 6
_SPECIFICATION: Final = "WhisperSpec"
_MOST_NAMES: Final = 100_000


class UnreadableModel(ValueError):
    """The file is not what it should be; the message tells why, as a sentence without its end."""


@dataclass(frozen=True)
class Variable:
    """Where the values of a variable are."""

    shape: tuple[int, ...]
    type: int
    """A key of `NUMPY_TYPES`."""
    offset: int
    """Bytes from the beginning of the file."""
    size_bytes: int


@dataclass(frozen=True)
class Index:
    """What a file holds."""

    version: int
    revision: int
    variables: Mapping[str, Variable]
    """In their order."""
    aliases: Mapping[str, str]
    """Other names of variables."""

    def find(self, name: str) -> Variable | None:
        """A variable, by its own or another name."""
        return self.variables.get(self.aliases.get(name, name))


def head_bytes(index: Index, count: int) -> bytes:
    """What comes before the variables in a file with so many of them."""
    head = struct.pack("<I", index.version) + _string_bytes(_SPECIFICATION)
    return head + struct.pack("<II", index.revision, count)


def variable_bytes(name: str, type: int, shape: Sequence[int], size_bytes: int) -> bytes:
    """What comes before the values of a variable."""
    dimensions = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return _string_bytes(name) + dimensions + struct.pack("<BI", type, size_bytes)


def aliases_bytes(index: Index) -> bytes:
    """What comes behind the variables."""
    names = b"".join(_string_bytes(name) for pair in index.aliases.items() for name in pair)
    return struct.pack("<I", len(index.aliases)) + names


def read_index(file: BinaryIO) -> Index:
    """Pass over a file that can seek. Raises `UnreadableModel`, OSError."""
    size_bytes = file.seek(0, 2)
    file.seek(0)
    try:
        return _read_index(file, size_bytes)
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise UnreadableModel("model.bin is damaged") from error


def _read_index(file: BinaryIO, size_bytes: int) -> Index:
    version, specification = _number(file, "<I"), _string(file)
    if specification != _SPECIFICATION:  # it may be any text: none of it is told
        raise UnreadableModel("model.bin is no Whisper model in CTranslate2's format")
    if version > _VERSION:
        raise UnreadableModel(f"model.bin has version {version} of CTranslate2's format, which is too new")
    revision = _number(file, "<I")
    variables = [(_string(file), _variable(file, size_bytes)) for _ in range(_count(file))]
    aliases = [(_string(file), _string(file)) for _ in range(_count(file))]
    index = Index(version, revision, dict(variables), dict(aliases))
    if len(index.variables.keys() | index.aliases.keys()) < len(variables) + len(aliases):
        # Who knows which of the two the library would take.
        raise UnreadableModel("model.bin has two variables of the same name")
    return index


def _variable(file: BinaryIO, end: int) -> Variable:
    shape = tuple(_number(file, "<I") for _ in range(_number(file, "B")))
    kind, size_bytes = _number(file, "B"), _number(file, "<I")
    if kind not in NUMPY_TYPES:
        raise UnreadableModel("model.bin has numbers of a type that is not known")
    offset = file.tell()
    if file.seek(size_bytes, 1) > end:
        raise UnreadableModel("model.bin is cut off")
    return Variable(shape, kind, offset, size_bytes)


def _count(file: BinaryIO) -> int:
    count = _number(file, "<I")
    if count > _MOST_NAMES:
        raise UnreadableModel("model.bin is damaged")
    return count


def _number(file: BinaryIO, format: str) -> int:
    return int(struct.unpack(format, file.read(struct.calcsize(format)))[0])


def _string(file: BinaryIO) -> str:
    """Of so many bytes as the number before it says, the last of which is a zero."""
    return file.read(_number(file, "<H"))[:-1].decode()


def _string_bytes(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data
