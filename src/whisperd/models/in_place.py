"""A folder or a file of the user's as a model: used where it is. Nothing in it is ever run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from whisperd.models.files import SUFFIX, invalid_file, open_file
from whisperd.models.folders import hash_stamps, invalid_folder, open_folder
from whisperd.models.hashing import stamp
from whisperd.models.manifest import InstalledModel
from whisperd.models.names import path_of
from whisperd.plugins import ModelFacts
from whisperd.rpc.errors import WhisperdError
from whisperd.threads import ANSWER_TIMEOUT_S, run_abandonable

__all__ = ["identify", "is_there", "look_for_facts", "look_into"]

T = TypeVar("T")


async def look_into(name: str) -> InstalledModel:
    """The model at a path. Raises `model.unknown`, `model.invalid_folder` or `model.invalid_file`."""
    return await _in_time(name, lambda: _open(path_of(name)))


async def look_for_facts(name: str) -> ModelFacts | None:
    """What the file at a path says of itself; None of a folder. Raises like `look_into`."""

    def look() -> ModelFacts | None:
        path = path_of(name)
        return _open(path).facts if _means_file(path) else None

    return await _in_time(name, look)


async def identify(name: str) -> str:
    """A hash over the stamps of a model's files. Raises like `look_into`."""
    return await _in_time(name, lambda: _identity(path_of(name)))


async def is_there(name: str) -> bool:
    """Whether there is anything at a path. Raises where it does not answer, as `look_into` does."""
    return await _in_time(name, lambda: os.path.lexists(path_of(name)))


async def _in_time(name: str, work: Callable[[], T]) -> T:
    """Do `work` with an end to our patience: the path may be on a network that does not answer."""
    if not (name.startswith("~") or Path(name).is_absolute()):  # the daemon has no working folder of yours
        raise WhisperdError(
            "input.not_absolute", f"The path {name!r} is not absolute.", "Send an absolute path."
        )
    try:
        return await run_abandonable(name, work)
    except TimeoutError as error:
        invalid = invalid_file if name.endswith(SUFFIX) else invalid_folder
        raise invalid(path_of(name), f"it does not answer within {ANSWER_TIMEOUT_S:.0f} seconds") from error


def _open(path: Path) -> InstalledModel:
    return open_file(path) if _means_file(path) else open_folder(path)


def _means_file(path: Path) -> bool:
    """Whether a path is that of a file; of what is not there, as it is called."""
    return not path.is_dir() and (path.exists() or path.suffix == SUFFIX)


def _identity(path: Path) -> str:
    if _open(path).facts is None:
        return hash_stamps(path)
    try:
        of_file = msgspec.json.encode(stamp(path))
    except OSError as error:
        raise invalid_file(path, f"it cannot be read ({error.strerror})") from error
    return hashlib.sha256(os.fsencode(path) + b" " + of_file).hexdigest()
