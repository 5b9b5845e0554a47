"""The record of an installed model, and the types that describe a model to callers."""

from __future__ import annotations

import msgspec

from whisperd.models.catalogue import FileName, Sha256
from whisperd.models.hashing import Stamp
from whisperd.plugins import ModelFacts

__all__ = ["InstalledModel", "Manifest", "ModelSummary", "StoredFile", "Verified"]


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a model, stored under its hash."""

    name: FileName
    size_bytes: int
    sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An installed model. Its hashes define the model from the first download on."""

    format: int = 1
    name: str
    repo: str | None = None
    revision: str | None = None
    """The commit on the hub to which the files belong, if known."""
    source: str
    """Where the bytes came from."""
    files: tuple[StoredFile, ...]
    facts: ModelFacts | None = None
    """For a model that is one file in a backend's own format; None for one in CTranslate2's format."""

    @property
    def size_bytes(self) -> int:
        """The total size of its files."""
        return sum(file.size_bytes for file in self.files)


class Verified(msgspec.Struct, frozen=True):
    """A record that a file with this stamp had this hash."""

    sha256: Sha256
    stamp: Stamp


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The shape `model` of the wire protocol."""

    name: str
    repo: str | None
    size: int | None
    """Bytes on disk, or to download; None if unknown."""
    memory: int | None
    """An estimate, in bytes, of what it needs when loaded: as int8, or in the precision of its one file."""
    languages: tuple[str, ...] | None
    """ISO 639 codes; None if unknown."""
    installed: bool
    verified: bool
    """Whether every byte was verified, and no file was touched since."""
    path: str | None
    facts: ModelFacts | None = None
    """For a model that is one file in a backend's own format."""


class InstalledModel(ModelSummary, frozen=True, kw_only=True):
    """A model that can be loaded: the folder or file to load, and where it came from."""

    path: str
    source: str
    """Such as `the hub`; `folder` or `file` for a model that is used in place."""
    revision: str | None = None
    """The commit on the hub."""
