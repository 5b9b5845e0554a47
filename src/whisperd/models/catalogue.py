"""The models that whisperd knows by name: where their bytes can be found, and which bytes they are.

Values only. The data stands in `catalogue.toml` beside this file.
"""

from __future__ import annotations

import difflib
import functools
from importlib import resources
from typing import Annotated

import msgspec

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
"""A plain name: a file of a model can never lie outside the model's folder."""


class ModelFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that an engine needs, and what is known of its bytes."""

    name: FileName
    size_bytes: int | None = None
    sha256: Sha256 | None = None
    git_sha1: GitSha1 | None = None
    """How git names the file: what the hub states for small files in place of a SHA-256."""


def expected(known: ModelFile | None, stated: ModelFile) -> ModelFile:
    """What a file has to be: what is known of it has precedence over what its source states today."""
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
    """A model as plain data in wheels."""

    wheels: tuple[PackageWheel, ...]
    members: dict[str, tuple[str, ...]]
    """For each file of the model the members of the wheels that make it, joined in this order."""


class ReadyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in the format of another engine, as others have made it of the same weights."""

    format: str
    """The name of a plugin's `ModelFormat`."""
    precision: str
    """A compute type."""
    repo: str
    revision: str | None = None
    file: ModelFile


class CatalogueModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the catalogue."""

    name: str
    repo: str
    revision: str | None = None
    """The commit on the hub that the hashes are of."""
    aliases: tuple[str, ...] = ()
    parameters_millions: float
    decoder_share: float = 1.0
    """How many layers its decoder has for each of the encoder's."""
    english_only: bool = False
    languages: tuple[str, ...] = ()
    extra_languages: tuple[str, ...] = ()
    translates: bool = True
    """Whether one that knows several languages has learnt to translate."""
    licence: str | None = None
    about_size_bytes: int | None = None
    """Where the files are not known."""
    files: tuple[ModelFile, ...] = ()
    """Every file that an engine needs; empty where they are not known."""
    package: Package | None = None
    ready: tuple[ReadyFile, ...] = ()

    @property
    def size_bytes(self) -> int | None:
        """What a download brings, about, where the sizes of the files are not all known."""
        sizes = [file.size_bytes for file in self.files]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else self.about_size_bytes

    def memory_bytes(
        self, compute_type: str = "int8", *, batch_size: int = 4, replicas: int = 1, device: str = "cpu"
    ) -> int:
        """An estimate of the memory that it needs: see `whisperd.models.memory.need_bytes`."""
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
    """ISO 639 codes of what every multilingual model understands."""
    models: tuple[CatalogueModel, ...]

    def find(self, name: str) -> CatalogueModel | None:
        """The model of that name, alias or hub repository."""
        wanted = name.lower()
        for model in self.models:
            if wanted in (model.name, *model.aliases, model.repo.lower()):
                return model
        return None

    def near(self, name: str) -> list[str]:
        """Names that look like this one, the likest first."""
        names = [name for model in self.models for name in (model.name, *model.aliases)]
        return difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)


def parse_catalogue(text: str) -> Catalogue:
    """Read a catalogue and give each model its languages."""
    catalogue = msgspec.toml.decode(text, type=Catalogue)
    models = tuple(
        msgspec.structs.replace(model, languages=_languages(catalogue, model)) for model in catalogue.models
    )
    return msgspec.structs.replace(catalogue, models=models)


@functools.cache
def shipped_catalogue() -> Catalogue:
    """The catalogue that comes with this version of whisperd."""
    return parse_catalogue(resources.files(__package__).joinpath("catalogue.toml").read_text("utf-8"))


def _languages(catalogue: Catalogue, model: CatalogueModel) -> tuple[str, ...]:
    return ("en",) if model.english_only else (*catalogue.languages, *model.extra_languages)
