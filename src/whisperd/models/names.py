"""Resolve model names: catalogue names, repositories on the hub, paths, imported models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from whisperd.models.catalogue import Catalogue, CatalogueModel, ModelFile, Package, ReadyFile
from whisperd.plugins import ModelFacts
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "Reference",
    "is_path",
    "is_plain",
    "key_of",
    "no_model_at",
    "path_of",
    "ready_reference",
    "resolve",
]

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REPOSITORY = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})(@(?P<revision>[\w./-]{1,96}))?"
)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A model, and everything known about it before the download."""

    name: str
    repo: str | None = None
    revision: str | None = None
    """The commit, branch or tag to ask the hub for."""
    files: tuple[ModelFile, ...] = ()
    """The files to fetch; if empty, those that exist of the files an engine needs."""
    package: Package | None = None
    facts: ModelFacts | None = None
    """For a model that is one file in a backend's own format."""

    @property
    def key(self) -> str:
        """A file name for this model."""
        return key_of(self.name)

    @property
    def size_bytes(self) -> int:
        """The total size of those files whose size is known."""
        return sum(file.size_bytes or 0 for file in self.files)


def resolve(name: str, catalogue: Catalogue, is_installed: Callable[[str], bool]) -> Reference:
    """Return the model that a name means. `is_installed` says whether one was imported under a plain name.

    Raises `model.unknown`, with near matches in the fix.
    """
    known = catalogue.find(name)
    if known is not None:
        return Reference(
            name=known.name,
            repo=known.repo,
            revision=known.revision,
            files=known.files,
            package=known.package,
        )
    if is_plain(name) and is_installed(name):
        return Reference(name=name)
    repository = _REPOSITORY.fullmatch(name)
    if repository is not None and ".." not in name and "--" not in name:
        return Reference(name=name, repo=repository["repo"], revision=repository["revision"])
    raise _unknown(name, catalogue)


def ready_reference(known: CatalogueModel, ready: ReadyFile) -> Reference:
    """Return the reference by which to fetch a ready-made conversion of a catalogue model."""
    return Reference(
        name=f"{known.name}-{ready.precision}.{ready.format}",
        repo=ready.repo,
        revision=ready.revision,
        files=(ready.file,),
    )


def is_path(name: str) -> bool:
    """Whether a name means a local folder or file: an absolute path, or one that begins with `.` or `~`."""
    relative = name in (".", "..") or name.startswith(("./", "../", "~", ".\\", "..\\"))
    return relative or Path(name).is_absolute()


def path_of(name: str) -> Path:
    """Return the absolute path that a name means."""
    try:
        return Path(name).expanduser().absolute()
    except RuntimeError:  # there is no such user
        return Path(name).absolute()


def is_plain(name: str) -> bool:
    """Whether an imported model can have this name."""
    return _PLAIN.fullmatch(name) is not None and "--" not in name


def key_of(name: str) -> str:
    """Return a file name for a model name; as on the hub, `--` stands for `/` and appears in no name."""
    return name.replace("/", "--")


def no_model_at(path: Path) -> WhisperdError:
    """Return `model.unknown` for a path where there is neither a folder nor a file."""
    return WhisperdError(
        "model.unknown",
        f"There is no model at {path}: it does not exist.",
        "Check the spelling of the path.",
        {"name": str(path), "near": []},
    )


def _unknown(name: str, catalogue: Catalogue) -> WhisperdError:
    near = catalogue.near(name)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return WhisperdError(
        "model.unknown",
        f"There is no model named {name!r}.",
        f"{meant}`whisperctl models available` lists the names; a hub repository (owner/name) or the path of "
        "a model's folder or file (./name) is accepted as well.",
        {"name": name, "near": near},
    )
