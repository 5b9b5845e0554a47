"""Stores the weights of a model as the integers that the engine computes with on a CPU.

Without this, CTranslate2 quantises the floats at every load, which takes several times as long as reading
integers, and twice the memory. The integers written here are identical to its own, to the last bit: each row
of a matrix is scaled so that its largest number becomes 127, and rounded. Runs in a separate process, with
the native bundle on the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from whisperd.ctranslate2_file import (
    BFLOAT16,
    FLOAT32,
    INT8,
    NUMPY_TYPES,
    UnreadableModel,
    Variable,
    aliases_bytes,
    head_bytes,
    read_index,
    variable_bytes,
)

__all__ = ["quantise"]

_FLOATS: Final = ("<f4", "<f2", "<u2")
_LARGEST: Final = np.float32(127)
_BLOCK_NUMBERS: Final = 1 << 20
"""The most numbers in memory at once, except that a row is never split."""


def quantise(source: Path, target: Path, _precision: str, on_bytes: Callable[[int], None]) -> None:
    """Write the weights of the model in the folder `source` to the file `target` as 8-bit integers.

    All compute types that this is called for use 8-bit integers. The file stays empty if the weights are
    integers already. `on_bytes` gets the number of bytes of the source read since the last call. Raises
    `UnreadableModel`, OSError.
    """
    with (source / "model.bin").open("rb") as file, target.open("wb") as output:
        index = read_index(file)
        quantised = {name for name, variable in index.variables.items() if _is_quantised(name, variable)}
        if not quantised:
            return
        output.write(head_bytes(index, len(index.variables) + len(quantised)))
        for name, variable in index.variables.items():
            file.seek(variable.offset)
            if name in quantised:
                _write_integers(file, name, variable, output)
            else:
                output.write(variable_bytes(name, variable.type, variable.shape, variable.size_bytes))
                output.write(file.read(variable.size_bytes))
            on_bytes(variable.size_bytes)
        output.write(aliases_bytes(index))


def _is_quantised(name: str, variable: Variable) -> bool:
    """Whether the library quantises a variable: all matrices but those of the convolutions."""
    is_matrix = name.endswith("weight") and "conv" not in name and len(variable.shape) == 2
    return is_matrix and NUMPY_TYPES[variable.type] in _FLOATS


def _write_integers(file: BinaryIO, name: str, variable: Variable, output: BinaryIO) -> None:
    """Write a matrix as integers, followed by the scale of each row."""
    rows, columns = variable.shape
    output.write(variable_bytes(name, INT8, variable.shape, rows * columns))
    scales = []
    for block in _blocks(file, variable):
        largest = np.abs(block).max(axis=1)
        with np.errstate(all="ignore"):
            scale = np.divide(_LARGEST, largest, out=np.ones_like(largest), where=largest != 0)
        # The library's result for other numbers is undefined.
        if not (np.isfinite(largest) & np.isfinite(scale)).all():
            raise UnreadableModel("model.bin has a matrix with numbers that are too large, too small or NaN")
        output.write(np.rint(block * scale[:, None]).astype(np.int8).tobytes())
        scales.append(scale)
    output.write(variable_bytes(f"{name}_scale", FLOAT32, (rows,), 4 * rows))
    output.write(np.concatenate(scales).astype(NUMPY_TYPES[FLOAT32]).tobytes())


def _blocks(file: BinaryIO, variable: Variable) -> Iterator[Any]:
    """Yield the rows of a matrix, several at once, as 32-bit floats."""
    rows, columns = variable.shape
    kind = np.dtype(NUMPY_TYPES[variable.type])
    if variable.size_bytes != rows * columns * kind.itemsize or not columns:
        raise UnreadableModel("model.bin has a matrix whose size does not match its shape")
    at_once = max(1, _BLOCK_NUMBERS // columns)
    for first in range(0, rows, at_once):
        count = min(at_once, rows - first)
        values = np.frombuffer(file.read(count * columns * kind.itemsize), kind)
        if variable.type == BFLOAT16:  # the upper half of a 32-bit float
            values = (values.astype(np.uint32) << 16).view(np.float32)
        yield values.astype(np.float32).reshape(count, columns)
