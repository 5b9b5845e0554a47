"""The interface of a source, and its parameters and results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from whisperd.models.catalogue import ModelFile
from whisperd.models.names import Reference
from whisperd.models.storage import Keep
from whisperd.progress import Meter

__all__ = ["Found", "FoundFile", "NotHere", "Source", "Workspace", "missing_names", "wanted_names"]

REQUIRED = ("model.bin", "config.json", "tokenizer.json")
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
OPTIONAL = ("preprocessor_config.json",)


class NotHere(Exception):
    """A source does not have the model. The text says why, as a clause."""


@dataclass(frozen=True)
class FoundFile:
    """A file that a source found, with the size and hashes that the source states."""

    file: ModelFile
    path: Path


@dataclass(frozen=True)
class Found:
    """All the requested files of a model."""

    files: tuple[FoundFile, ...]
    keep: Keep
    revision: str | None = None
    folder: Path | None = None
    """A folder of files that no later download can use: it is removed in any case."""


@dataclass(frozen=True)
class Workspace:
    """The resources that a source may use for one model."""

    folder: Path
    """For unfinished downloads. It survives an interrupted download."""
    meter: Meter
    """Receives the expected number of bytes, and the number received so far."""
    need_space: Callable[[int], None]
    """Raises `disk.full` if that many more bytes do not fit on the disk."""


class Source(Protocol):
    """A place where models can be found."""

    name: str
    """For display: `the hub`."""
    remote: bool
    """Whether offline mode forbids it."""

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:
        """Find the files in `model.files`, or all that an engine needs if that is empty.

        Raises `NotHere`, or `WhisperdError` if something fails.
        """


def missing_names(names: set[str], model: Reference | None = None) -> list[str]:
    """Return which of the model's files, or if unknown of those an engine needs, are not among `names`."""
    if model is not None and model.files:
        return [file.name for file in model.files if file.name not in names]
    missing = [name for name in REQUIRED if name not in names]
    if not names.intersection(VOCABULARIES):
        missing.append("vocabulary.json or vocabulary.txt")
    return missing


def wanted_names(model: Reference) -> tuple[str, ...]:
    """Return the names of the files to look for."""
    return tuple(file.name for file in model.files) or (*REQUIRED, *VOCABULARIES, *OPTIONAL)
