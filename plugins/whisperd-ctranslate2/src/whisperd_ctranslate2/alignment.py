"""Checks a model's alignment heads, the attention heads that follow the speech.

`config.json` lists them as pairs of layer and head. CTranslate2 trusts the list, and reads out of bounds if a
layer or a head does not exist: so the list is checked against the weights first.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from whisperd.ctranslate2_file import NUMPY_TYPES, UnreadableModel, read_index

__all__ = ["DecoderSize", "decoder_size", "heads_problem", "with_valid_heads"]

_CONFIG: Final = "config.json"
_KEY: Final = "alignment_heads"
_HEADS: Final = "decoder/num_heads"
_LAYER: Final = re.compile(r"decoder/layer_(0|[1-9][0-9]{0,3})/")
_WHOLE_NUMBERS: Final = ("i1", "<i2", "<i4")


class DecoderSize(NamedTuple):
    """The number of the decoder's layers, and of heads in each."""

    layers: int
    heads: int


@contextmanager
def with_valid_heads(folder: Path) -> Iterator[tuple[Path, bool, str | None]]:
    """Yield a folder to load a model from, whether it has alignment heads, and what is wrong with them.

    If the heads are invalid, the folder is a temporary one, with links to the same files and a `config.json`
    without heads. It is deleted when the context ends, so load the model in the context. Raises
    OSError, `ValueError`.
    """
    config = json.loads((folder / _CONFIG).read_bytes())
    if not isinstance(config, dict) or config.get(_KEY, []) == []:
        yield folder, False, None
    elif problem := heads_problem(config[_KEY], decoder_size(folder / "model.bin")):
        del config[_KEY]
        with TemporaryDirectory(prefix="whisperd-") as name:
            for file in folder.iterdir():
                if file.is_file() and file.name != _CONFIG:
                    _link(file.resolve(), Path(name, file.name))
            Path(name, _CONFIG).write_text(json.dumps(config), "utf-8")
            yield Path(name), False, problem
    else:
        yield folder, True, None


def heads_problem(heads: Any, size: DecoderSize | None) -> str | None:
    """Return why alignment heads are invalid for a decoder of that size, or None if they are valid."""
    if size is None:
        return "model.bin does not say how many heads there are"
    if not isinstance(heads, list):
        return "they are not a list of pairs"
    for pair in heads:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(number) is not int for number in pair):
            return "they are not all pairs of whole numbers"
        layer, head = pair
        if not (0 <= layer < size.layers and 0 <= head < size.heads):
            return f"there is no head {head} in layer {layer} of {size.layers} layers with {size.heads} heads"
    return None


def decoder_size(path: Path) -> DecoderSize | None:
    """Return the size of the decoder in a `model.bin`, or None if it cannot be determined. Raises OSError."""
    with path.open("rb") as file:
        try:
            index = read_index(file)
        except UnreadableModel:
            return None
        heads = index.find(_HEADS)
        if heads is None or heads.shape or NUMPY_TYPES[heads.type] not in _WHOLE_NUMBERS:
            return None
        file.seek(heads.offset)
        number = int.from_bytes(file.read(heads.size_bytes), "little", signed=True)
    layers = {int(found[1]) for name in index.variables if (found := _LAYER.match(name))}
    # The library counts layers up to the first missing one.
    count = next(layer for layer in itertools.count() if layer not in layers)
    return DecoderSize(count, number) if count else None


def _link(file: Path, link: Path) -> None:
    """Link to a file, or copy it where links are forbidden, as for most users of Windows."""
    try:
        link.symlink_to(file)
    except OSError:
        shutil.copyfile(file, link)
