"""What is written down about an installed model, and what callers get to see of it."""

from __future__ import annotations

import msgspec

from whisperd.models.catalogue import FileName, Sha256
from whisperd.models.hashing import Stamp
from whisperd.plugins import ModelFacts

__all__ = ["InstalledModel", "Manifest", "ModelSummary", "StoredFile", "Verified"]


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a model: its bytes lie in the store under their hash."""

    name: FileName
    size_bytes: int
    sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An installed model. Its hashes are what the model is, from the first download on."""

    format: int = 1
    name: str
    repo: str | None = None
    revision: str | None = None
    """The commit on the hub that the files are of, where one is known."""
    source: str
    """Where the bytes came from."""
    files: tuple[StoredFile, ...]
    facts: ModelFacts | None = None
    """Of a model that is one file in a backend's own format; None: files in CTranslate2's."""

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(file.size_bytes for file in self.files)


class Verified(msgspec.Struct, frozen=True):
    """That a file had this hash when its stamp was this."""

    sha256: Sha256
    stamp: Stamp


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The shape `model` of the outer interface."""

    name: str
    repo: str | None
    size: int | None
    """Bytes on disk, or to download; None where that is not known."""
    memory: int | None
    """An estimate, in bytes, of what it needs when it is loaded: as int8, or as its one file is stored."""
    languages: tuple[str, ...] | None
    """ISO 639 codes; None where they are not known."""
    installed: bool
    verified: bool
    """Whether every byte is known to be right, and no file was touched since that was found."""
    path: str | None
    facts: ModelFacts | None = None
    """Of a model that is one file in a backend's own format."""


class InstalledModel(ModelSummary, frozen=True, kw_only=True):
    """A model that can be loaded: a folder or a file to give to an engine, and where it came from."""

    path: str
    source: str
    """Such as `the hub`; `folder` or `file` for one that is used in place."""
    revision: str | None = None
    """The commit on the hub."""
