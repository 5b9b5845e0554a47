"""Reads the weights and the vocabulary of a model in CTranslate2's format, one variable at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from whisperd.ctranslate2_file import BFLOAT16, NUMPY_TYPES, UnreadableModel, Variable, read_index

__all__ = ["CTranslate2Model", "UnreadableModel", "read_vocabulary"]


class CTranslate2Model:
    """The variables of a `model.bin`, read on demand; `on_bytes` gets the number of bytes read."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        self._path = path
        self._on_bytes = on_bytes
        with path.open("rb") as file:
            self._index = read_index(file)

    def __contains__(self, name: str) -> bool:
        return self._index.find(name) is not None

    def array(self, name: str) -> Any:
        """Return a variable as a numpy array of floats, in the precision of the file; integers are scaled."""
        values = self._stored(name)
        if values.dtype.kind == "f":
            return values
        # A quantised weight is multiplied by a scale: one per row, or one for all.
        scale = self._stored(f"{name}_scale").astype(np.float32)
        rows = scale.reshape(scale.shape + (1,) * (values.ndim - scale.ndim)) if scale.ndim else scale
        return values.astype(np.float32) / rows

    def number(self, name: str) -> int:
        """Return a variable that is a single integer."""
        return int(self._stored(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a variable."""
        return self._find(name).shape

    def count(self, pattern: str) -> int:
        """Return how many variables match a pattern with a number in it, counting from 0 without gaps."""
        number = 0
        while pattern.format(number) in self:
            number += 1
        return number

    def _find(self, name: str) -> Variable:
        variable = self._index.find(name)
        if variable is None:
            raise UnreadableModel(f"model.bin has no {name}")
        return variable

    def _stored(self, name: str) -> Any:
        variable = self._find(name)
        with self._path.open("rb") as file:
            file.seek(variable.offset)
            data = file.read(variable.size_bytes)
        self._on_bytes(len(data))
        values = np.frombuffer(data, dtype=NUMPY_TYPES[variable.type])
        if values.size != np.prod(variable.shape, dtype=np.int64):
            raise UnreadableModel(f"the size of {name} in model.bin does not match its shape")
        if variable.type == BFLOAT16:  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(variable.shape)


def read_vocabulary(folder: Path) -> list[str]:
    """Return the tokens of a model in order, as written in its files."""
    as_json = folder / "vocabulary.json"
    if as_json.exists():
        tokens = json.loads(as_json.read_bytes())
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise UnreadableModel("vocabulary.json is not a list of tokens")
        return tokens
    # A token may contain any character but this one, including others that end a line for Python.
    return (folder / "vocabulary.txt").read_bytes().decode().removesuffix("\n").split("\n")
