"""Find, verify, describe and remove the models in the store by name. Everything here blocks."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from whisperd.locks import try_lock
from whisperd.models import errors
from whisperd.models.catalogue import Catalogue
from whisperd.models.converted import ConvertedModels, ConvertedSource
from whisperd.models.files import file_need_bytes
from whisperd.models.manifest import InstalledModel, Manifest, ModelSummary
from whisperd.models.names import Reference, is_path, key_of, ready_reference, resolve
from whisperd.models.storage import Storage
from whisperd.plugins import ModelFacts
from whisperd.progress import Meter, OnProgress, from_thread, ignore_progress

__all__ = ["StoredModels"]

_WAITS_S = (0.1, 0.0)
"""The wait after each attempt. Removing another model tries every lock, and so holds each for a moment."""


class StoredModels:
    """The models of the store by name, with what the catalogue knows about them."""

    def __init__(self, catalogue: Catalogue, storage: Storage, converted: ConvertedModels) -> None:
        self._catalogue = catalogue
        self._storage = storage
        self._converted = converted

    def find(self, name: str) -> InstalledModel | None:
        """Return the model if every byte of it is right."""
        model = self.resolve(name)
        manifest = self._storage.intact(model.key)
        return None if manifest is None else self._installed(model, manifest)

    def get(self, name: str) -> InstalledModel:
        """Like `find`, but raises `model.not_installed` or `model.damaged`."""
        return self.find(name) or self.verify(name)

    def verify(self, name: str, on_progress: OnProgress = ignore_progress) -> InstalledModel:
        """Read every byte of a model. Raises `model.not_installed`, `model.damaged`."""
        model = self.resolve(name)
        manifest = self._storage.manifest(model.key)
        if manifest is None:
            raise errors.not_installed(model.name)
        report, total = from_thread(on_progress), manifest.size_bytes
        meter = Meter(model.name, report, detail="verifying", total=total)
        if bad := self._storage.damaged(model.key, manifest.files, meter.adder):
            if self._storage.manifest(model.key) is None:  # it was removed meanwhile
                raise errors.not_installed(model.name)
            raise errors.damaged(model.name, bad)
        return self._installed(model, manifest)

    def identity(self, name: str) -> str:
        """Return a hash over the hashes of its files. Raises like `get`."""
        return self.source(name, Path(self.get(name).path)).hash

    def list(self) -> tuple[ModelSummary, ...]:
        """List the installed models by name. Raises `model.read_only`, `model.storage_failed`."""
        with errors.os_errors(None, self._storage.root):
            return tuple(self._summary(each.name, each.repo, each) for each in self._storage.manifests())

    def available(self) -> tuple[ModelSummary, ...]:
        """List the models of the catalogue, in its order."""
        return tuple(self.describe(model.name) for model in self._catalogue.models)

    def describe(self, name: str) -> ModelSummary:
        """Describe one model, installed or not."""
        model = self.resolve(name)
        return self._summary(model.name, model.repo, self._storage.manifest(model.key))

    def remove(self, name: str, outdated: Collection[str]) -> int:
        """Remove a model, the files converted from it, and `outdated` conversions; return the bytes freed."""
        known = self._catalogue.find(name)
        unfinished = [ready_reference(known, ready).key for ready in known.ready] if known else []
        with errors.os_errors(name, self._storage.root):
            model = resolve(name, self._catalogue, self._storage.has_any)
            if not self._storage.has_any(model.key) and not self._storage.partial(model.key).exists():
                raise errors.not_installed(model.name)
            for wait_s in _WAITS_S:
                with try_lock(self._storage.lock_path(model.key)) as is_free:
                    if is_free:
                        freed_bytes = self._storage.remove(model.key, unfinished)
                        return freed_bytes + self._converted.clear(self._sources(), outdated)
                time.sleep(wait_s)
        raise errors.busy(model.name)

    def source(self, name: str, folder: Path) -> ConvertedSource:
        """Return the source of conversions. Raises `model.not_installed`, `model.invalid_folder`."""
        if is_path(name):
            return ConvertedSource.used_in_place(folder)
        model = self.resolve(name)
        manifest = self._storage.manifest(model.key)
        if manifest is None:
            raise errors.not_installed(model.name)
        return ConvertedSource.stored(manifest, folder)

    def resolve(self, name: str) -> Reference:
        """Return the model that a name means. Raises `model.unknown`."""
        return resolve(name, self._catalogue, lambda key: self._storage.manifest(key) is not None)

    def languages(self, facts: ModelFacts | None) -> tuple[str, ...] | None:
        """Return the languages of a file: those of a catalogue model with the same number of languages."""
        counts = (one.languages for one in self._catalogue.models)
        return next((each for each in counts if facts and len(each) == facts.language_count), None)

    def _sources(self) -> Iterator[ConvertedSource]:
        for manifest in self._storage.manifests():
            yield ConvertedSource.stored(manifest, self._storage.folder(key_of(manifest.name)))

    def _summary(self, name: str, repo: str | None, manifest: Manifest | None) -> ModelSummary:
        key = key_of(name)
        known = self._catalogue.find(name)
        size = known.size_bytes if known else None
        if manifest is not None:
            converted = ConvertedSource.stored(manifest, self._storage.folder(key))
            size = manifest.size_bytes + self._converted.size_bytes(converted)
        folder, facts = self._storage.folder(key), manifest.facts if manifest else None
        path = folder / manifest.files[0].name if manifest and facts else folder
        return ModelSummary(
            name=name,
            repo=repo,
            size=size,
            memory=file_need_bytes(facts) if facts else known.memory_bytes() if known else None,
            languages=known.languages if known else self.languages(facts),
            installed=manifest is not None,
            verified=manifest is not None and not self._storage.changed(key, manifest),
            path=str(path) if manifest else None,
            facts=facts,
        )

    def _installed(self, model: Reference, manifest: Manifest) -> InstalledModel:
        """Return a model whose every byte was verified."""
        summary = msgspec.structs.asdict(self._summary(model.name, model.repo, manifest))
        return InstalledModel(
            **summary | {"verified": True}, source=manifest.source, revision=manifest.revision
        )
