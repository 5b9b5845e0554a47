"""Check a user's folder with a model in CTranslate2's format."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import msgspec

from whisperd.models.files import BEGINNING_BYTES, diagnose_other_file
from whisperd.models.hashing import stamp
from whisperd.models.manifest import InstalledModel
from whisperd.models.names import no_model_at
from whisperd.models.sources.base import missing_names
from whisperd.rpc.errors import WhisperdError

__all__ = ["hash_stamps", "invalid_folder", "open_folder"]

_MAX_CONFIG_BYTES = 10 << 20
_USUAL_FIX = (
    "Name a folder with a Whisper model in CTranslate2's format: model.bin, config.json, tokenizer.json and "
    "a vocabulary."
)
_MODEL_SUFFIXES = (".bin", ".gguf", ".json", ".safetensors", ".txt")
"""The suffixes of model files; other files in the folder cannot change a transcript."""


def open_folder(folder: Path) -> InstalledModel:
    """Return the model in a folder. Raises `model.unknown`, or `model.invalid_folder`, which says why no
    engine can use it. Blocks."""
    try:
        sizes = _file_sizes(folder)
        if missing := missing_names(set(sizes)):
            problem = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            raise invalid_folder(folder, problem, missing, _fix_for_missing(missing, sizes))
        _check_config(folder / "config.json")
        with (folder / "model.bin").open("rb") as weights:
            beginning = weights.read(BEGINNING_BYTES)
        if not beginning:
            raise invalid_folder(folder, "model.bin is empty")
        if diagnosis := diagnose_other_file(beginning):
            problem, fix = diagnosis
            raise invalid_folder(folder, f"model.bin {problem}", fix=fix)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a path may have a null byte in it
        raise no_model_at(folder) from None
    except OSError as error:
        raise invalid_folder(folder, f"it cannot be read ({error.strerror})") from error
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


def hash_stamps(folder: Path) -> str:
    """Return a hash over the stamps of a model's files, which changes when one of them does. Blocks.

    Raises `model.invalid_folder`.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_SUFFIXES and path.is_file())
        lines = [f"{path} {msgspec.json.encode(stamp(path)).decode()}\n" for path in files]
    except OSError as error:
        raise invalid_folder(folder, f"it cannot be read ({error.strerror})") from error
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _file_sizes(folder: Path) -> dict[str, int]:
    """Return the sizes of the files in a folder. A file deleted meanwhile is skipped."""
    sizes = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                sizes[path.name] = path.stat().st_size
    return sizes


def _fix_for_missing(missing: Collection[str], names: Collection[str]) -> str:
    if "model.bin" not in missing:
        return f"Copy {'it' if len(missing) == 1 else 'them'} from the model that this one was made from."
    if any(name.endswith(".safetensors") or name == "pytorch_model.bin" for name in names):
        return (
            "Convert it with `ct2-transformers-converter --copy_files tokenizer.json`, which is in the "
            "Python package ctranslate2."
        )
    return _USUAL_FIX


def _check_config(path: Path) -> None:
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise invalid_folder(path.parent, "config.json is far too large")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise invalid_folder(path.parent, "config.json is not a JSON object")


def invalid_folder(
    folder: Path, problem: str, missing: list[str] | None = None, fix: str = _USUAL_FIX
) -> WhisperdError:
    """Return `model.invalid_folder`, which says why a folder cannot be used and which files are missing."""
    return WhisperdError(
        "model.invalid_folder",
        f"The folder {folder} cannot be used as a model: {problem}.",
        fix,
        {"path": str(folder), "missing": missing or []},
    )
