"""The model store: what is installed, what could be, and how it gets there."""

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
from whisperd.models.in_place import identify, is_there, look_for_facts, look_into
from whisperd.models.manifest import InstalledModel, ModelSummary
from whisperd.models.memory import weights_type
from whisperd.models.names import Reference, is_path, is_plain, key_of, nothing_at, path_of, ready_reference
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

    A name is one of the catalogue, a hub repository (`owner/name`, `owner/name@revision`), the name
    of an imported model, or the path of a folder with a model, or of a file in a backend's own format, which
    is used in place. All methods raise `WhisperdError`: `model.unknown` for a name that means nothing,
    `model.invalid_folder`, `model.invalid_file`.

    Files are read in threads. One that was not touched since it was verified is not read again.
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
        self._takes_ready = True

    def look_in(self, sources: Sequence[Source]) -> None:
        """Use these sources from the next download on."""
        self._puller = dataclasses.replace(self._puller, sources=sources)

    def for_trials(self) -> ModelStore:
        """The same store, which makes every file in another format itself: a trial downloads no model."""
        other = copy.copy(self)
        other._takes_ready = False
        return other

    async def find(self, name: str) -> InstalledModel | None:
        """The model if it can be loaded; None where it is not installed, or a byte of it is wrong."""
        if is_path(name):
            return await self._look_into(name)
        return await anyio.to_thread.run_sync(self._stored.find, name)

    async def path(self, name: str) -> Path:
        """The folder or file of a model, to give to an engine; `model.not_installed`, `model.damaged`."""
        return Path((await self._get(name)).path)

    async def verify(self, name: str, on_progress: OnProgress = ignore_progress) -> InstalledModel:
        """Read every byte of a model, and of what was converted from it. What is used in place, whose hashes
        nobody knows, is looked into only.

        Raises `model.not_installed`; `model.damaged` with the files in `data`, of which those that were
        converted are removed, and made anew when they are needed; and where they cannot be read or removed,
        `model.read_only`, `model.storage_failed`.
        """
        in_thread = anyio.to_thread.run_sync
        is_in_place = is_path(name)
        found = await (
            self._look_into(name) if is_in_place else in_thread(self._stored.verify, name, on_progress)
        )
        if found.facts is None:
            source = await in_thread(self._stored.source, name, Path(found.path))
            if bad := await self._converted.drop_damaged(source, on_progress):
                raise errors.conversions_damaged(found.name, bad)
        return found

    async def list(self) -> tuple[ModelSummary, ...]:
        """The installed models, by name. Reads no model file. `model.read_only`, `model.storage_failed`."""
        return await anyio.to_thread.run_sync(self._stored.list)

    async def available(self) -> tuple[ModelSummary, ...]:
        """The models of the catalogue, in its order."""
        return await anyio.to_thread.run_sync(self._stored.available)

    def canonical_name(self, name: str) -> str:
        """The one name of a model, whichever of its names is given. Reads nothing; an unknown one stays."""
        known = self.catalogue.find(name)
        if known is not None:
            return known.name
        return str(path_of(name)) if is_path(name) else name

    async def parameters(self, name: str) -> float:
        """How many parameters an installed model has. Errors: those of `size`."""
        return (await self.size(name)).parameters

    async def size(self, name: str, folder: Path | None = None) -> ModelSize:
        """How large an installed model is. Errors: those of `path`, where its folder is not said."""
        if known := self.catalogue.find(name):
            return ModelSize(known.parameters_millions * 1_000_000, known.decoder_share)
        if facts := await self.facts(name):
            return ModelSize(facts.parameters)
        return await anyio.to_thread.run_sync(size_in, folder or await self.path(name))

    async def facts(self, name: str) -> ModelFacts | None:
        """What a model says of itself that is one file in a backend's own format; None of all others."""
        if is_path(name):
            return await look_for_facts(name)
        if self.catalogue.find(name) is not None or not is_plain(name):
            return None
        manifest = await anyio.to_thread.run_sync(self._storage.manifest, key_of(name))
        return None if manifest is None else manifest.facts

    async def describe(self, name: str) -> ModelSummary:
        """One model, installed or not."""
        if is_path(name):
            return await self._look_into(name)
        return await anyio.to_thread.run_sync(self._stored.describe, name)

    async def pull(self, name: str, on_progress: OnProgress = ignore_progress) -> InstalledModel:
        """Install a model where it is not installed yet, and mend one that is damaged.

        Calls at the same time download once, and all are told of the progress. A cancelled download
        is taken up where it ended. Errors: `disk.full`, `model.read_only`, and when no source had
        it the most telling of theirs (`network.unreachable`, `model.offline`, `hub.unauthorised`,
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
        """The file of an installed model in another format. Unless it is there, it is one that the catalogue
        names, where the hub is reached, and else made in a child process.

        `precision` is a compute type that the engine offers, and those with the same weights have one file;
        `bundle` is the native bundle that the conversion needs. Cancelling leaves nothing. Errors: those of
        `path`, `model.conversion_failed`, `disk.full`, `model.read_only`.
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
        """The file of an installed model in another format, if it is there. Errors: those of `path`."""
        source = await anyio.to_thread.run_sync(self._stored.source, name, await self.path(name))
        wanted = Conversion(source, format, weights_type(precision))
        return await anyio.to_thread.run_sync(self._converted.find, wanted)

    def _ready(
        self, name: str, format: ModelFormat, precision: str, on_progress: OnProgress
    ) -> FetchReady | None:
        """What brings the file that the catalogue names for a model in another format."""
        known = self.catalogue.find(name)
        if known is None or not self._takes_ready:
            return None
        model = known.name  # which is what somebody waits for

        def tell(progress: Progress) -> None:
            on_progress(msgspec.structs.replace(progress, name=model))

        for ready in known.ready:
            if (ready.format, ready.precision) == (format.name, precision):
                return partial(self._puller.fetch_ready, ready_reference(known, ready), on_progress=tell)
        return None

    async def identity(self, name: str) -> str:
        """A hash that is another one once a byte of an installed model is. Errors: those of `path`.

        Of a folder that is used in place, the stamps of its files stand for their bytes.
        """
        if is_path(name):
            return await identify(name)
        return await anyio.to_thread.run_sync(self._stored.identity, name)

    async def remove(self, name: str) -> int:
        """Remove an installed model with what was converted from it, and what was downloaded of an unfinished
        one; the bytes freed.

        Files that other models have too stay. `model.not_installed`, `model.busy`, `model.read_only`;
        `model.in_place` of a path.
        """
        if is_path(name):
            raise errors.in_place(name) if await is_there(name) else nothing_at(path_of(name))
        outdated = await self._converted.outdated()
        return await anyio.to_thread.run_sync(self._stored.remove, name, outdated)

    async def clear_leftovers(self) -> None:
        """Remove unfinished downloads that nobody has taken up for weeks, as each pull does."""
        await anyio.to_thread.run_sync(self._storage.clear_leftovers, "", time.time())

    async def import_model(
        self, path: Path | str, name: str | None = None, on_progress: OnProgress = ignore_progress
    ) -> InstalledModel:
        """Copy a model from a folder, or a file in a backend's own format, into the store.

        `name` is one of the catalogue, or a new one; by default that of the folder or file. Under a name of
        the catalogue its bytes must be those that the catalogue knows, which no such file's are.
        Errors: those of a path, `model.invalid_name`, `model.exists`, and those of `pull`.
        """
        opened = await look_into(str(path))
        facts, source = opened.facts, Path(opened.path)
        if name is None:
            name = source.stem if facts else source.name
        known = self.catalogue.find(name)
        if known is None and not is_plain(name):
            raise errors.invalid_name(name)
        if known is not None and facts is not None:
            raise errors.name_of_catalogue(name)
        model = self._stored.resolve(name) if known is not None else Reference(name=name, facts=facts)
        if model.key in self._flights:
            raise errors.busy(model.name)
        only = ExactFileSource(source, f"model.{facts.format}") if facts else ExactFolderSource(source)
        puller = dataclasses.replace(self._puller, sources=[only])
        await self._lead(model, puller, on_progress, is_new=True)
        imported = await self._get(name)
        if facts is not None and (await look_into(imported.path)).facts != facts:
            await self.remove(name)
            raise invalid_file(source, "it changed while it was copied")
        return imported

    async def _get(self, name: str) -> InstalledModel:
        """The model if it can be loaded, or why it cannot: the errors of `path`."""
        if is_path(name):
            return await self._look_into(name)
        return await anyio.to_thread.run_sync(self._stored.get, name)

    async def _look_into(self, name: str) -> InstalledModel:
        """A model that is used in place."""
        found = await look_into(name)
        return msgspec.structs.replace(found, languages=self._stored.languages(found.facts))

    async def _lead(
        self, model: Reference, puller: Puller, on_progress: OnProgress, *, is_new: bool = False
    ) -> None:
        """Pull, and tell all who wait for the same model. One that `is_new` must not be there yet, and why it
        is not taken is nothing to them: then they pull it."""
        flight = self._flights[model.key] = Flight(on_progress)
        try:
            if is_new and await anyio.to_thread.run_sync(self._storage.sound, model.key) is not None:
                raise errors.already_installed(model.name)
            await puller.pull(model, flight.tell)
        except WhisperdError as error:
            flight.error = None if is_new else error
            raise
        finally:
            del self._flights[model.key]
            flight.landed.set()
