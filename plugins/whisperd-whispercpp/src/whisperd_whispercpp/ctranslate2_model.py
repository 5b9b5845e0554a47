"""Reads the weights of a model in CTranslate2's format, one variable after the other.

`model.bin` is little-endian: a version, the name and the revision of the specification, then each variable
with its name, shape and type, and last the names that stand for other variables. Strings have their length
before them and a zero byte behind.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["CTranslate2Model", "UnreadableModel", "read_vocabulary"]

_BINARY_VERSION = 6
_SPECIFICATION = "WhisperSpec"
_BFLOAT16 = 5
_TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2", _BFLOAT16: "<u2"}
_MAX_VARIABLES = 100_000


class UnreadableModel(ValueError):
    """The files are not what they should be."""


@dataclass(frozen=True)
class _Variable:
    offset: int
    size_bytes: int
    shape: tuple[int, ...]
    type: int


class CTranslate2Model:
    """The variables of a `model.bin`, read when they are asked for; `on_bytes` is told how many bytes."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        self._path = path
        self._on_bytes = on_bytes
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            file.seek(0)
            try:
                self._variables = _read_index(file, size_bytes)
            except (struct.error, UnicodeDecodeError, IndexError) as error:
                raise UnreadableModel("model.bin is damaged") from error

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def array(self, name: str) -> Any:
        """A variable as a numpy array of floats, in the precision of the file; integers are scaled."""
        values = self._stored(name)
        if values.dtype.kind == "f":
            return values
        # A quantised weight was multiplied with a scale: one for each row, or one for all.
        scale = self._stored(f"{name}_scale").astype(np.float32)
        rows = scale.reshape(scale.shape + (1,) * (values.ndim - scale.ndim)) if scale.ndim else scale
        return values.astype(np.float32) / rows

    def number(self, name: str) -> int:
        """A variable that is a single whole number."""
        return int(self._stored(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a variable."""
        return self._find(name).shape

    def count(self, pattern: str) -> int:
        """How many variables there are of a pattern with a number in it, counted from 0."""
        number = 0
        while pattern.format(number) in self:
            number += 1
        return number

    def _find(self, name: str) -> _Variable:
        try:
            return self._variables[name]
        except KeyError:
            raise UnreadableModel(f"model.bin has no {name}") from None

    def _stored(self, name: str) -> Any:
        variable = self._find(name)
        with self._path.open("rb") as file:
            file.seek(variable.offset)
            data = file.read(variable.size_bytes)
        self._on_bytes(len(data))
        values = np.frombuffer(data, dtype=_TYPES[variable.type])
        if values.size != np.prod(variable.shape, dtype=np.int64):
            raise UnreadableModel(f"{name} in model.bin has not the size that its shape tells")
        if variable.type == _BFLOAT16:  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(variable.shape)


def _read_index(file: BinaryIO, size_bytes: int) -> dict[str, _Variable]:
    version, specification = _number(file, "<I"), _string(file)
    if version > _BINARY_VERSION or specification != _SPECIFICATION:
        raise UnreadableModel(
            f"model.bin is {specification or 'something'} of version {version}, not Whisper"
        )
    _number(file, "<I")  # the revision of the specification
    count = _number(file, "<I")
    if count > _MAX_VARIABLES:
        raise UnreadableModel("model.bin is damaged")
    variables = dict(_read_variable(file) for _ in range(count))
    if any(one.offset + one.size_bytes > size_bytes for one in variables.values()):
        raise UnreadableModel("model.bin is cut off")
    if any(one.type not in _TYPES for one in variables.values()):
        raise UnreadableModel("model.bin has numbers of a type that is not known")
    for _ in range(_number(file, "<I")):
        alias, name = _string(file), _string(file)
        if name in variables:
            variables[alias] = variables[name]
    return variables


def _read_variable(file: BinaryIO) -> tuple[str, _Variable]:
    name = _string(file)
    shape = tuple(_number(file, "<I") for _ in range(_number(file, "B")))
    kind, size_bytes = _number(file, "B"), _number(file, "<I")
    offset = file.tell()
    file.seek(size_bytes, 1)
    return name, _Variable(offset, size_bytes, shape, kind)


def _number(file: BinaryIO, format: str) -> int:
    return int(struct.unpack(format, file.read(struct.calcsize(format)))[0])


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "<H"))[:-1].decode()


def read_vocabulary(folder: Path) -> list[str]:
    """The tokens of a model in their order, as the files write them."""
    as_json = folder / "vocabulary.json"
    if as_json.exists():
        tokens = json.loads(as_json.read_bytes())
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise UnreadableModel("vocabulary.json is not a list of tokens")
        return tokens
    # A token may hold any character but this one, also those that Python takes for the end of a line.
    return (folder / "vocabulary.txt").read_bytes().decode().removesuffix("\n").split("\n")
