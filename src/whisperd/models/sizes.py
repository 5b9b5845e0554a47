"""Determine the size of a model that is not in the catalogue, from its files."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from whisperd import disk
from whisperd.ctranslate2_file import NUMPY_TYPES, UnreadableModel, Variable, read_index
from whisperd.models.memory import parameters_in

__all__ = ["ModelSize", "size_in"]

_LAYER: Final = re.compile(r"(encoder|decoder)/layer_\d+/")


class ModelSize(NamedTuple):
    """The inputs to an estimate of its memory: see `whisperd.models.memory.need_bytes`."""

    parameters: float
    decoder_share: float = 1.0


def size_in(folder: Path) -> ModelSize:
    """Return the size of the model in a folder; approximate if it is not in CTranslate2's format. Blocks."""
    try:
        with (folder / "model.bin").open("rb") as file:
            variables = read_index(file).variables
    except (OSError, UnreadableModel):
        return ModelSize(parameters_in(disk.files_bytes(folder)))
    layers = {found[0]: found[1] for name in variables if (found := _LAYER.match(name))}
    halves = Counter(layers.values())
    return ModelSize(
        sum(map(_count, variables.values())),
        halves["decoder"] / halves["encoder"] if halves["encoder"] else 1.0,
    )


def _count(variable: Variable) -> int:
    """Return how many numbers a variable has, from its bytes in the file, since its shape may be wrong."""
    return variable.size_bytes // int(NUMPY_TYPES[variable.type][-1])
