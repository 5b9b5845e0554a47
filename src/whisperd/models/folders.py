"""A folder of the user's as a model: used where it is. Nothing in it is ever run."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from whisperd.models.hashing import stamp
from whisperd.models.manifest import InstalledModel
from whisperd.models.names import folder_of
from whisperd.models.sources.base import missing_names
from whisperd.rpc.errors import WhisperdError
from whisperd.threads import ANSWER_TIMEOUT_S, run_abandonable

__all__ = ["hash_stamps", "identify_folder", "look_into_folder", "open_folder"]

T = TypeVar("T")

_MAX_CONFIG_BYTES = 10 << 20
_MODEL_SUFFIXES = (".bin", ".gguf", ".json", ".safetensors", ".txt")
"""How files are called that models are made of; whatever else lies beside them changes no text."""


async def look_into_folder(name: str) -> InstalledModel:
    """`open_folder`, with an end to our patience: the folder may be on a network that does not answer."""
    return await _in_time(name, lambda: open_folder(name))


async def identify_folder(name: str) -> str:
    """A hash over the stamps of a model's files. Raises `model.invalid_folder`."""
    return await _in_time(name, lambda: hash_stamps(Path(open_folder(name).path)))


async def _in_time(name: str, work: Callable[[], T]) -> T:
    try:
        return await run_abandonable(name, work)
    except TimeoutError as error:
        problem = f"it does not answer within {ANSWER_TIMEOUT_S:.0f} seconds"
        raise _invalid(Path(name), problem) from error


def hash_stamps(folder: Path) -> str:
    """A hash over the stamps of the files of a model, which changes when one of them does. Blocks.

    Raises `model.invalid_folder`.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_SUFFIXES and path.is_file())
        lines = [f"{path} {msgspec.json.encode(stamp(path)).decode()}\n" for path in files]
    except OSError as error:
        raise _invalid(folder, f"it cannot be read ({error.strerror})") from error
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def open_folder(name: str) -> InstalledModel:
    """The model in a folder; `model.invalid_folder` says what keeps an engine from using it. Blocks."""
    folder = folder_of(name)
    try:
        sizes = _file_sizes(folder)
        if missing := missing_names(set(sizes)):
            raise _invalid(
                folder, f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing", missing
            )
        _check_config(folder / "config.json")
        with (folder / "model.bin").open("rb") as weights:
            if not weights.read(1):
                raise _invalid(folder, "model.bin is empty")
    except (FileNotFoundError, ValueError):  # a path with a null byte in it can be of nothing
        raise _invalid(folder, "it does not exist") from None
    except NotADirectoryError:
        raise _invalid(folder, "it is not a folder") from None
    except OSError as error:
        raise _invalid(folder, f"it cannot be read ({error.strerror})") from error
    return InstalledModel(
        name=str(folder),
        repo=None,
        size=sum(sizes.values()),
        memory=None,
        languages=None,
        installed=True,
        verified=False,
        path=str(folder),
        source="folder",
    )


def _file_sizes(folder: Path) -> dict[str, int]:
    """The files in a folder and their bytes. One that goes while we look is none of ours to miss."""
    sizes = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                sizes[path.name] = path.stat().st_size
    return sizes


def _check_config(path: Path) -> None:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise _invalid(path.parent, "config.json is far too large")
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise _invalid(path.parent, "config.json is not a JSON object")


def _invalid(folder: Path, problem: str, missing: list[str] | None = None) -> WhisperdError:
    return WhisperdError(
        "model.invalid_folder",
        f"The folder {folder} cannot be used as a model: {problem}.",
        "Name a folder with a Whisper model in CTranslate2's format: model.bin, config.json, tokenizer.json "
        "and a vocabulary.",
        {"path": str(folder), "missing": missing or []},
    )
