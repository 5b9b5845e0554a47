"""Which of a model's attention heads follow what is being said, and whether it has them at all.

`config.json` names them as pairs of layer and head. CTranslate2 believes it, and reads memory that is not its
own where a layer or a head is not there: so what the weights themselves say is looked at before.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Final, NamedTuple

__all__ = ["DecoderSize", "decoder_size", "heads_problem", "with_sound_heads"]

_CONFIG: Final = "config.json"
_KEY: Final = "alignment_heads"
_HEADS: Final = "decoder/num_heads"
_LAYER: Final = re.compile(r"decoder/layer_(0|[1-9][0-9]{0,3})/")
_WHOLE_NUMBERS: Final = {1: "<b", 2: "<h", 3: "<i"}
"""By CTranslate2's number of the type."""
_MOST_VARIABLES: Final = 100_000


class DecoderSize(NamedTuple):
    """How many layers the decoder has, and heads in each."""

    layers: int
    heads: int


@contextmanager
def with_sound_heads(folder: Path) -> Iterator[tuple[Path, bool, str | None]]:
    """A folder to load a model from, whether it names alignment heads, and what was wrong with them.

    Where they are none of its own it is another folder, with links to the same files and a `config.json`
    that names none; it may go once the model is loaded. Raises OSError, `ValueError`.
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
    """Why alignment heads cannot be used with a decoder of that size; None where they can."""
    if size is None:
        return "it cannot be read from model.bin how many heads there are"
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
    """The size of the decoder in a `model.bin`; None where that does not tell it. Raises OSError."""
    with path.open("rb") as file:
        try:
            return _read_size(file)
        except (struct.error, UnicodeDecodeError):
            return None


def _read_size(file: BinaryIO) -> DecoderSize | None:
    """Pass over the variables of the file: their names tell the layers, one of them the heads.

    The file begins with a version, the name and the revision of the specification, and how many variables
    there are; behind them are names that stand for other variables. A name that comes twice tells nothing:
    who knows which of the two the library takes. It counts layers up to the first that is missing.
    """
    _number(file, "<I"), _string(file), _number(file, "<I")
    names, layers, numbers = set[str](), set[int](), dict[str, int]()
    for _ in range(min(_number(file, "<I"), _MOST_VARIABLES)):
        name = _string(file)
        if name in names:
            return None
        names.add(name)
        rank = _number(file, "B")
        file.seek(4 * rank, 1)
        kind, size_bytes = _number(file, "B"), _number(file, "<I")
        after = file.tell() + size_bytes
        if rank == 0 and kind in _WHOLE_NUMBERS:
            numbers[name] = _number(file, _WHOLE_NUMBERS[kind])
        if found := _LAYER.match(name):
            layers.add(int(found[1]))
        file.seek(after)
    for _ in range(min(_number(file, "<I"), _MOST_VARIABLES)):
        alias, name = _string(file), _string(file)
        if alias in names:
            return None
        names.add(alias)
        if name in numbers:
            numbers[alias] = numbers[name]
    count = next(layer for layer in itertools.count() if layer not in layers)
    return DecoderSize(count, numbers[_HEADS]) if count and _HEADS in numbers else None


def _number(file: BinaryIO, format: str) -> int:
    return int(struct.unpack(format, file.read(struct.calcsize(format)))[0])


def _string(file: BinaryIO) -> str:
    """Of so many bytes as the number before it says, the last of which is a zero."""
    return file.read(_number(file, "<H"))[:-1].decode()


def _link(file: Path, link: Path) -> None:
    """Where links are forbidden, as on Windows to most, it is a copy."""
    try:
        link.symlink_to(file)
    except OSError:
        shutil.copyfile(file, link)
