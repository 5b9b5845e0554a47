"""The model store: list, install, convert and remove models."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio.to_thread
import msgspec

from whisperd import disk
from whisperd.models import errors
from whisperd.models.catalogue import Catalogue, shipped_catalogue
from whisperd.models.converted import Conversion, ConvertedModels, FetchReady
from whisperd.models.files import invalid_file
from whisperd.models.flight import Flight
from whisperd.models.in_place import exists, identify, open_in_place, read_facts
from whisperd.models.manifest import InstalledModel, ModelSummary
from whisperd.models.memory import weights_type
from whisperd.models.names import Reference, is_path, is_plain, key_of, no_model_at, path_of, ready_reference
from whisperd.models.pulling import Puller, Unreachable
from whisperd.models.sizes import ModelSize, size_in
from whisperd.models.sources import ExactFileSource, ExactFolderSource, Source, default_sources
from whisperd.models.storage import Storage
from whisperd.models.stored import StoredModels
from whisperd.plugins import ModelFacts, ModelFormat
from whisperd.progress import OnProgress, Progress, ignore_progress
from whisperd.rpc.errors import WhisperdError

__all__ = ["ModelStore"]


class ModelStore:
    """The models in one folder, shared with other processes that use the same folder.

    A name is one of the catalogue, a hub repository (`owner/name`, `owner/name@revision`), the name of an
    imported model, or the path of a model's folder or of a file in a backend's own format, which is used in
    place. All methods raise `WhisperdError`: `model.unknown` for an unknown name, `model.invalid_folder`,
    `model.invalid_file`.

    Files are read in threads. A file that was not touched since it was verified is not read again.
    """

    def __init__(
        self,
        root: Path,
        *,
        sources: Sequence[Source] | None = None,
        offline: bool = False,
        catalogue: Catalogue | None = None,
        clock: Callable[[], float] = time.monotonic,
        free_bytes: Callable[[Path], int] = disk.free_bytes,
    ) -> None:
        self.root = path_of(str(root))
        self.catalogue = catalogue if catalogue is not None else shipped_catalogue()
        self._storage = Storage(self.root)
        self._puller = Puller(
            storage=self._storage,
            sources=default_sources() if sources is None else sources,
            unreachable=Unreachable(clock),
            offline=offline,
            free_bytes=free_bytes,
        )
        self._converted = ConvertedModels(self._storage, free_bytes)
        self._stored = StoredModels(self.catalogue, self._storage, self._converted)
        self._flights: dict[str, Flight] = {}
        self._uses_ready_files = True

    def use_sources(self, sources: Sequence[Source]) -> None:
        """Use these sources from the next download on."""
        self._puller = dataclasses.replace(self._puller, sources=sources)

    def for_trials(self) -> ModelStore:
        """Return this store without ready-made conversions: a trial converts rather than downloads."""
        other = copy.copy(self)
        other._uses_ready_files = False
        return other

    async def find(self, name: str) -> InstalledModel | None:
        """Return the model if it can be loaded; None if it is damaged or not installed."""
        if is_path(name):
            return await self._open_in_place(name)
        return await anyio.to_thread.run_sync(self._stored.find, name)

    async def path(self, name: str) -> Path:
        """Return the folder or file for an engine to load. Raises `model.not_installed`, `model.damaged`."""
        return Path((await self._get(name)).path)

    async def verify(self, name: str, on_progress: OnProgress = ignore_progress) -> InstalledModel:
        """Read every byte of a model, and of the files converted from it. A model that is used in place has
        no known hashes, so it is only opened.

        Raises `model.not_installed`; `model.damaged` with the files in `data` (converted ones are removed,
        and converted again when needed); and `model.read_only` or `model.storage_failed` if files cannot be
        read or removed.
        """
        in_thread = anyio.to_thread.run_sync
        is_in_place = is_path(name)
        found = await (
            self._open_in_place(name) if is_in_place else in_thread(self._stored.verify, name, on_progress)
        )
        if found.facts is None:
            source = await in_thread(self._stored.source, name, Path(found.path))
            if bad := await self._converted.drop_damaged(source, on_progress):
                raise errors.conversions_damaged(found.name, bad)
        return found

    async def list(self) -> tuple[ModelSummary, ...]:
        """List the installed models by name, without reading their files. Raises `model.read_only`,
        `model.storage_failed`."""
        return await anyio.to_thread.run_sync(self._stored.list)

    async def available(self) -> tuple[ModelSummary, ...]:
        """List the models of the catalogue, in its order."""
        return await anyio.to_thread.run_sync(self._stored.available)

    def canonical_name(self, name: str) -> str:
        """Return the canonical name for any of a model's names; an unknown name unchanged. Reads nothing."""
        known = self.catalogue.find(name)
        if known is not None:
            return known.name
        return str(path_of(name)) if is_path(name) else name

    async def parameters(self, name: str) -> float:
        """Return how many parameters an installed model has. Errors: those of `size`."""
        return (await self.size(name)).parameters

    async def size(self, name: str, folder: Path | None = None) -> ModelSize:
        """Return the size of an installed model. Errors: those of `path`, unless `folder` is given."""
        if known := self.catalogue.find(name):
            return ModelSize(known.parameters_millions * 1_000_000, known.decoder_share)
        if facts := await self.facts(name):
            return ModelSize(facts.parameters)
        return await anyio.to_thread.run_sync(size_in, folder or await self.path(name))

    async def facts(self, name: str) -> ModelFacts | None:
        """Return the facts stated by a model that is one file in a backend's own format; None for others."""
        if is_path(name):
            return await read_facts(name)
        if self.catalogue.find(name) is not None or not is_plain(name):
            return None
        manifest = await anyio.to_thread.run_sync(self._storage.manifest, key_of(name))
        return None if manifest is None else manifest.facts

    async def describe(self, name: str) -> ModelSummary:
        """Describe one model, installed or not."""
        if is_path(name):
            return await self._open_in_place(name)
        return await anyio.to_thread.run_sync(self._stored.describe, name)

    async def pull(self, name: str, on_progress: OnProgress = ignore_progress) -> InstalledModel:
        """Install a model if it is not installed, and repair one that is damaged.

        Concurrent calls share one download, and all receive its progress. A cancelled download
        resumes next time. Errors: `disk.full`, `model.read_only`, and if no source has the model,
        the most specific of their errors (`network.unreachable`, `model.offline`, `hub.unauthorised`,
        `hub.not_found`, `hub.rate_limited`, `download.stuck`, `model.hash_mismatch`, …,
        `model.unavailable`), with all of them in `data["tried"]`.
        """
        while (found := await self.find(name)) is None:
            model = await anyio.to_thread.run_sync(self._stored.resolve, name)
            flight = self._flights.get(model.key)
            if flight is None:
                await self._lead(model, self._puller, on_progress)
                return await self._get(name)
            await flight.follow(on_progress)
        return found

    async def convert(
        self,
        name: str,
        format: ModelFormat,
        precision: str,
        bundle: Path | None = None,
        on_progress: OnProgress = ignore_progress,
    ) -> Path:
        """Return the file of an installed model in another format. If it does not exist yet, download the one
        in the catalogue if the hub can be reached, else convert the model in a child process.

        `precision` is a compute type that the engine offers; those with the same type of weights share one
        file. `bundle` is the native bundle that the conversion needs. Cancelling leaves nothing behind.
        Errors: those of `path`, `model.conversion_failed`, `disk.full`, `model.read_only`.
        """
        precision = weights_type(precision)
        source = await anyio.to_thread.run_sync(self._stored.source, name, await self.path(name))
        return await self._converted.make(
            Conversion(source, format, precision),
            bundle=bundle,
            on_progress=on_progress,
            fetch=self._ready(name, format, precision, on_progress),
        )

    async def converted(self, name: str, format: ModelFormat, precision: str) -> Path | None:
        """Return the file of an installed model in another format, if it exists. Errors: those of `path`."""
        source = await anyio.to_thread.run_sync(self._stored.source, name, await self.path(name))
        wanted = Conversion(source, format, weights_type(precision))
        return await anyio.to_thread.run_sync(self._converted.find, wanted)

    def _ready(
        self, name: str, format: ModelFormat, precision: str, on_progress: OnProgress
    ) -> FetchReady | None:
        """Return a function that downloads the catalogue's ready-made file of a model in another format."""
        known = self.catalogue.find(name)
        if known is None or not self._uses_ready_files:
            return None
        model = known.name  # the name under which the caller awaits progress

        def report(progress: Progress) -> None:
            on_progress(msgspec.structs.replace(progress, name=model))

        for ready in known.ready:
            if (ready.format, ready.precision) == (format.name, precision):
                return partial(self._puller.fetch_ready, ready_reference(known, ready), on_progress=report)
        return None

    async def identity(self, name: str) -> str:
        """Return a hash that changes when any byte of an installed model does. Errors: those of `path`.

        For a model that is used in place, the stamps of its files stand for their bytes.
        """
        if is_path(name):
            return await identify(name)
        return await anyio.to_thread.run_sync(self._stored.identity, name)

    async def remove(self, name: str) -> int:
        """Remove an installed model and the files converted from it, or an unfinished download. Returns the
        bytes freed.

        Files that other models share stay. Raises `model.not_installed`, `model.busy`, `model.read_only`;
        `model.in_place` for a path.
        """
        if is_path(name):
            raise errors.in_place(name) if await exists(name) else no_model_at(path_of(name))
        outdated = await self._converted.outdated()
        return await anyio.to_thread.run_sync(self._stored.remove, name, outdated)

    async def clear_leftovers(self) -> None:
        """Remove unfinished downloads that have not been resumed for weeks, as each pull does."""
        await anyio.to_thread.run_sync(self._storage.clear_leftovers, "", time.time())

    async def import_model(
        self, path: Path | str, name: str | None = None, on_progress: OnProgress = ignore_progress
    ) -> InstalledModel:
        """Copy a model from a folder, or a file in a backend's own format, into the store.

        `name` is one of the catalogue, or a new one; by default that of the folder or file. Under a catalogue
        name, its bytes must be those in the catalogue, which rules out a file in a backend's own format.
        Errors: those of a path, `model.invalid_name`, `model.exists`, and those of `pull`.
        """
        opened = await open_in_place(str(path))
        facts, source = opened.facts, Path(opened.path)
        if name is None:
            name = source.stem if facts else source.name
        known = self.catalogue.find(name)
        if known is None and not is_plain(name):
            raise errors.invalid_name(name)
        if known is not None and facts is not None:
            raise errors.catalogue_name(name)
        model = self._stored.resolve(name) if known is not None else Reference(name=name, facts=facts)
        if model.key in self._flights:
            raise errors.busy(model.name)
        only = ExactFileSource(source, f"model.{facts.format}") if facts else ExactFolderSource(source)
        puller = dataclasses.replace(self._puller, sources=[only])
        try:
            await self._lead(model, puller, on_progress, is_new=True)
        except WhisperdError as error:
            if known is not None and error.code == "model.hash_mismatch":
                error.fix = (
                    "Copy the folder again; or, if it is a model of your own, import it under another name: "
                    "`whisperctl models import PATH NAME`."
                )
            raise
        imported = await self._get(name)
        if facts is not None and (await open_in_place(imported.path)).facts != facts:
            await self.remove(name)
            raise invalid_file(source, "it changed while it was copied")
        return imported

    async def _get(self, name: str) -> InstalledModel:
        """Return the model if it can be loaded. Errors: those of `path`."""
        if is_path(name):
            return await self._open_in_place(name)
        return await anyio.to_thread.run_sync(self._stored.get, name)

    async def _open_in_place(self, name: str) -> InstalledModel:
        """Return a model that is used in place, with its languages."""
        found = await open_in_place(name)
        return msgspec.structs.replace(found, languages=self._stored.languages(found.facts))

    async def _lead(
        self, model: Reference, puller: Puller, on_progress: OnProgress, *, is_new: bool = False
    ) -> None:
        """Pull a model, and share progress and result with all callers that wait for it.

        A model that `is_new`, an import, must not exist yet; if it fails, the waiting callers pull the model
        themselves."""
        flight = self._flights[model.key] = Flight(on_progress)
        try:
            if is_new and await anyio.to_thread.run_sync(self._storage.intact, model.key) is not None:
                raise errors.already_installed(model.name)
            await puller.pull(model, flight.report)
        except WhisperdError as error:
            flight.error = None if is_new else error
            raise
        finally:
            del self._flights[model.key]
            flight.ended.set()
