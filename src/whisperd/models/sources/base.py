"""The interface of a source, and what passes through it."""

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
    """A source does not have the model. Says why, as the end of a sentence."""


@dataclass(frozen=True)
class FoundFile:
    """A file that a source found, with what the source itself states of its bytes."""

    file: ModelFile
    path: Path


@dataclass(frozen=True)
class Found:
    """All the files of a model that were asked for."""

    files: tuple[FoundFile, ...]
    keep: Keep
    revision: str | None = None


@dataclass(frozen=True)
class Workspace:
    """What a source may use for one model."""

    folder: Path
    """For unfinished downloads. It stays when a download is interrupted."""
    meter: Meter
    """Told how many bytes will come in all, and how many have."""
    need_space: Callable[[int], None]
    """Raises `disk.full` where that many bytes more do not fit."""


class Source(Protocol):
    """A place where models can be found."""

    name: str
    """For people: `the hub`."""
    remote: bool
    """Whether offline mode forbids it."""

    async def fetch(self, model: Reference, workspace: Workspace) -> Found:
        """Find the files of `model.files`, or all that an engine needs where that is empty.

        Raises `NotHere`, or `WhisperdError` when something went wrong.
        """


def missing_names(names: set[str], model: Reference | None = None) -> list[str]:
    """What is not among these files: of those of the model, where they are known, or that an engine needs."""
    if model is not None and model.files:
        return [file.name for file in model.files if file.name not in names]
    missing = [name for name in REQUIRED if name not in names]
    if not names.intersection(VOCABULARIES):
        missing.append("vocabulary.json or vocabulary.txt")
    return missing


def wanted_names(model: Reference) -> tuple[str, ...]:
    """The names of the files to look for."""
    return tuple(file.name for file in model.files) or (*REQUIRED, *VOCABULARIES, *OPTIONAL)
