"""Tiny models for tests: a few files, and a catalogue that lists them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from whisperd.models import Catalogue, CatalogueModel
from whisperd.models.catalogue import ModelFile

REPO = "Someone/faster-whisper-toy"


def tiny_files(seed: int = 0) -> dict[str, bytes]:
    """Return the files of a model, with weights large enough to be cut off and resumed."""
    weights = hashlib.shake_128(b"%d" % seed).digest(3_000_000)
    return {
        "config.json": b'{"seed": %d}' % seed,
        "model.bin": weights,
        "tokenizer.json": b'{"tokens": []}',
        "vocabulary.txt": b"a\nb\n",
    }


def known_files(files: dict[str, bytes]) -> tuple[ModelFile, ...]:
    """Return the files as catalogue entries."""
    return tuple(
        ModelFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    )


def catalogue_of(*models: CatalogueModel) -> Catalogue:
    return Catalogue(models=models)


def toy_entry(files: dict[str, bytes], **fields: Any) -> CatalogueModel:
    """Return a catalogue entry named `toy`."""
    known = {"name": "toy", "repo": REPO, "parameters_millions": 1, "languages": ("en",)}
    known["files"] = known_files(files)
    return CatalogueModel(**{**known, **fields})


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def content(path: str | Path) -> dict[str, bytes]:
    """Return the files that an engine would read from a model's folder."""
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}
