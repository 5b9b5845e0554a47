"""Pull a model: try the sources in turn, and verify each file as it enters the store."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio.to_thread
import msgspec

from whisperd.locks import hold_lock
from whisperd.models.catalogue import ModelFile, expected
from whisperd.models.errors import (
    Outcome,
    disk_full,
    hash_mismatch,
    offline,
    os_errors,
    unavailable,
)
from whisperd.models.manifest import Manifest, StoredFile
from whisperd.models.names import Reference
from whisperd.models.sources.base import Found, NotHere, Source, Workspace
from whisperd.models.storage import Mismatch, Storage, Unreadable
from whisperd.progress import Meter, OnProgress, Progress, from_thread
from whisperd.rpc.errors import WhisperdError

__all__ = ["Puller", "Unreachable"]

log = logging.getLogger(__name__)

_SPARE_BYTES = 16 << 20
"""Space to leave free on the disk for the file system itself."""
_UNREACHABLE = ("network.unreachable", "network.untrusted", "network.captive_portal")


REMEMBERED_S: Final = 600.0
"""How long an unreachable source is remembered."""


class Unreachable:
    """The sources that could not be reached recently. They are tried after all others."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until_s: dict[str, float] = {}

    def note(self, source: str) -> None:
        """Record that a source could not be reached."""
        self._until_s[source] = self._clock() + REMEMBERED_S

    def forget(self, source: str) -> None:
        """Record that a source was reached."""
        self._until_s.pop(source, None)

    def has(self, source: Source) -> bool:
        """Whether a source could not be reached recently."""
        now_s = self._clock()
        return self._until_s.get(source.name, now_s) > now_s

    def order(self, sources: Sequence[Source]) -> list[Source]:
        """Return the sources in the order in which to try them."""
        return sorted(sources, key=self.has)


@dataclass(frozen=True)
class Puller:
    """Fetches models into a storage."""

    storage: Storage
    sources: Sequence[Source]
    unreachable: Unreachable
    offline: bool
    free_bytes: Callable[[Path], int]

    async def pull(self, model: Reference, on_progress: OnProgress) -> None:
        """Install the model, or raise `WhisperdError`. Fetch only files that are missing or damaged."""
        waiting = Progress(name=model.name, detail="waiting")  # the lock's holder is probably downloading
        with os_errors(model.name, self.storage.root):
            async with hold_lock(self.storage.lock_path(model.key), lambda: on_progress(waiting)):
                installed = await anyio.to_thread.run_sync(self.storage.intact, model.key)
                if installed is None:
                    await self._fill(_pinned(model, self.storage.manifest(model.key)), on_progress)

    async def fetch_ready(self, model: Reference, target: Path, on_progress: OnProgress) -> bool:
        """Download the one file of `model` to `target` and verify it. Returns whether that succeeded.

        Uses only network sources, and skips those that could not be reached recently. The caller holds a lock
        of the storage, and may cancel: the download resumes next time. Raises `disk.full`, OSError.
        """
        sources = [source for source in self.sources if source.remote and not self.unreachable.has(source)]
        if self.offline or not sources:
            return False
        meter = self._meter(model, "verifying", from_thread(on_progress))
        have = await anyio.to_thread.run_sync(self._in_store, model, meter)
        try:
            if not have:
                await dataclasses.replace(self, sources=sources)._fetch(model, have, on_progress)
        except WhisperdError as error:
            if error.code == "disk.full":
                raise
            log.info("%s is not downloaded: %s", model.name, error.message)
            return False
        (stored,) = have.values()
        await anyio.to_thread.run_sync(self.storage.take, model.key, stored, target)
        return True

    async def _fill(self, model: Reference, on_progress: OnProgress) -> None:
        """Install the model; retry once if another process removed a file that the models share."""
        try:
            await self._install(model, on_progress)
        except FileNotFoundError:
            await self._install(model, on_progress)

    async def _install(self, model: Reference, on_progress: OnProgress) -> None:
        meter = self._meter(model, "verifying", from_thread(on_progress))
        have = await anyio.to_thread.run_sync(self._in_store, model, meter)
        source, revision = "the store", model.revision
        try:
            if not model.files or len(have) < len(model.files):
                source, revision = await self._fetch(model, have, on_progress)
            manifest = Manifest(
                name=model.name,
                repo=model.repo,
                revision=revision,
                source=source,
                files=tuple(have[name] for name in sorted(have)),
                facts=model.facts,
            )
            await anyio.to_thread.run_sync(self.storage.install, model.key, manifest)
        except BaseException:
            if not model.files:  # no later pull would find these blobs: no record has their hashes
                unused = {file.sha256 for file in have.values()}
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self.storage.abandon, model.key, unused)
            raise
        await anyio.to_thread.run_sync(self.storage.clear_leftovers, model.key, time.time())

    async def _fetch(
        self, model: Reference, have: dict[str, StoredFile], on_progress: OnProgress
    ) -> tuple[str, str | None]:
        """Try the sources until `have` is complete; return the name of the last one and its revision."""
        outcomes: list[Outcome] = []
        for source in self.unreachable.order(self.sources):
            if source.remote and self.offline:
                outcomes.append((source.name, offline(model.name)))
                continue
            missing = tuple(file for file in model.files if file.name not in have)
            try:
                wanted = msgspec.structs.replace(model, files=missing)
                return source.name, await self._fetch_from(source, wanted, have, on_progress)
            except (NotHere, WhisperdError) as outcome:
                self._note(model, source, outcome)
                outcomes.append((source.name, outcome))
        raise unavailable(model, outcomes)

    async def _fetch_from(
        self, source: Source, model: Reference, have: dict[str, StoredFile], on_progress: OnProgress
    ) -> str | None:
        """Fetch all missing files from one source into `have`; return their revision."""
        folder = self.storage.partial(model.key)
        resumed = any(folder.glob("*.partial"))
        meter = self._meter(model, "downloading", on_progress)
        need_space = partial(self._need_space, model)
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                found = await source.fetch(model, Workspace(folder, meter, need_space))
            finally:
                with contextlib.suppress(OSError):  # not empty: it holds a download that can resume later
                    folder.rmdir()
            verifying = self._meter(model, "verifying", from_thread(on_progress))
            admit = partial(self._admit, model, found, have, verifying)
            try:
                mismatch = await anyio.to_thread.run_sync(admit)
            except Unreadable as unreadable:
                raise NotHere(f"cannot be read ({unreadable})") from unreadable
            finally:
                if found.folder is not None:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(
                            partial(shutil.rmtree, found.folder, ignore_errors=True)
                        )
            self.unreachable.forget(source.name)
            if mismatch is None:
                return found.revision
            if not resumed:
                raise hash_mismatch(model.name, str(mismatch))
            resumed = False  # the remains of an earlier run may have been wrong: retry from the beginning

    def _admit(
        self, model: Reference, found: Found, have: dict[str, StoredFile], meter: Meter
    ) -> Mismatch | None:
        """Admit files to the store; the right ones stay, and the first mismatch is returned."""
        known = {file.name: file for file in model.files}
        meter.expect(sum(each.path.stat().st_size for each in found.files))
        wrong: Mismatch | None = None
        for each in found.files:
            name = each.file.name
            wanted = expected(known.get(name), each.file)
            try:
                have[name] = self.storage.admit(model.key, each.path, wanted, found.keep, meter.adder(name))
            except Mismatch as mismatch:
                wrong = wrong or mismatch
                if found.keep == "move":
                    each.path.unlink(missing_ok=True)
        return wrong

    def _in_store(self, model: Reference, meter: Meter) -> dict[str, StoredFile]:
        """Return the files of the model that other models, or an interrupted pull, left in the store."""
        found = [self.storage.has_blob(file, meter.adder(file.name)) for file in model.files]
        return {stored.name: stored for stored in found if stored is not None}

    def _note(self, model: Reference, source: Source, outcome: WhisperdError | NotHere) -> None:
        """Remember an unreachable source; raise an error that no other source can avoid."""
        if isinstance(outcome, NotHere):
            return
        if outcome.code == "disk.full":
            raise outcome if outcome.data else disk_full(model.name, self.storage.root)
        if outcome.code in _UNREACHABLE:
            self.unreachable.note(source.name)

    def _need_space(self, model: Reference, needed_bytes: int) -> None:
        free_bytes = self.free_bytes(self.storage.root)
        if needed_bytes + _SPARE_BYTES > free_bytes:
            raise disk_full(model.name, self.storage.root, needed_bytes, free_bytes)

    def _meter(self, model: Reference, detail: str, on_progress: OnProgress) -> Meter:
        return Meter(model.name, on_progress, detail=detail, total=model.size_bytes or None)


def _pinned(model: Reference, manifest: Manifest | None) -> Reference:
    """Pin files without a hash in the catalogue to the hashes of the first installation."""
    if manifest is None or (_is_commit(model.revision) and model.revision != manifest.revision):
        return model
    pins = {file.name: ModelFile(**msgspec.structs.asdict(file)) for file in manifest.files}
    files = tuple(file if file.sha256 else pins.get(file.name, file) for file in model.files)
    return msgspec.structs.replace(
        model,
        files=files or tuple(pins.values()),
        revision=manifest.revision or model.revision,
        facts=model.facts or manifest.facts,
    )


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None
