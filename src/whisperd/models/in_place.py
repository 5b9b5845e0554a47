"""Use a model in place, from a user's folder or file. No code in it is ever run."""

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

__all__ = ["exists", "identify", "open_in_place", "read_facts"]

T = TypeVar("T")


async def open_in_place(name: str) -> InstalledModel:
    """Return the model at a path. Raises `model.unknown`, `model.invalid_folder` or `model.invalid_file`."""
    return await _in_time(name, lambda: _open(path_of(name)))


async def read_facts(name: str) -> ModelFacts | None:
    """Return the facts that the file at a path states; None for a folder. Raises like `open_in_place`."""

    def read() -> ModelFacts | None:
        path = path_of(name)
        return _open(path).facts if _means_file(path) else None

    return await _in_time(name, read)


async def identify(name: str) -> str:
    """Return a hash over the stamps of a model's files. Raises like `open_in_place`."""
    return await _in_time(name, lambda: _identity(path_of(name)))


async def exists(name: str) -> bool:
    """Whether a path exists. Raises like `open_in_place` if its disk does not respond."""
    return await _in_time(name, lambda: os.path.lexists(path_of(name)))


async def _in_time(name: str, work: Callable[[], T]) -> T:
    """Run `work` with a timeout, since the path may be on a network drive that does not respond."""
    if not (name.startswith("~") or Path(name).is_absolute()):  # the daemon does not know the client's folder
        raise WhisperdError(
            "input.not_absolute", f"The path {name!r} is not absolute.", "Send an absolute path."
        )
    try:
        return await run_abandonable(name, work)
    except TimeoutError as error:
        invalid = invalid_file if name.endswith(SUFFIX) else invalid_folder
        raise invalid(path_of(name), f"it did not respond within {ANSWER_TIMEOUT_S:.0f} seconds") from error


def _open(path: Path) -> InstalledModel:
    return open_file(path) if _means_file(path) else open_folder(path)


def _means_file(path: Path) -> bool:
    """Whether a path means a file; if it does not exist or cannot be inspected, its suffix decides."""
    # Unlike the methods of `Path`, these raise nothing: whoever opens the file or folder reports the problem.
    return not os.path.isdir(path) and (os.path.exists(path) or path.suffix == SUFFIX)  # noqa: PTH110, PTH112


def _identity(path: Path) -> str:
    if _open(path).facts is None:
        return hash_stamps(path)
    try:
        of_file = msgspec.json.encode(stamp(path))
    except OSError as error:
        raise invalid_file(path, f"it cannot be read ({error.strerror})") from error
    return hashlib.sha256(os.fsencode(path) + b" " + of_file).hexdigest()
