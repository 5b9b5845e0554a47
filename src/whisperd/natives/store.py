"""The folder of native bundles: list, install, upgrade, verify and remove them."""

from __future__ import annotations

import builtins
import dataclasses
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from whisperd import disk
from whisperd.locks import hold_lock, try_lock
from whisperd.natives import manifest
from whisperd.natives.bundle import Bundle, InstalledBundle, bundles_in, read_installed
from whisperd.natives.choice import Choice, Chosen, read_choice, write_choice
from whisperd.natives.errors import (
    damaged_offline,
    disk_full,
    in_use,
    no_previous,
    offline,
    os_errors,
    upgrade_failed,
)
from whisperd.natives.install import Installation
from whisperd.natives.lock import Selection, parse_lock
from whisperd.natives.search import Search
from whisperd.paths import make_private_folder
from whisperd.progress import Meter, OnProgress, Progress, from_thread, ignore_progress
from whisperd.rpc.errors import WhisperdError

__all__ = ["NativeStore", "Trial", "Upgrade"]

log = logging.getLogger(__name__)

_STAGING, _LOCKS, _CURRENT = ".staging", ".locks", ".current"

Trial = Callable[[InstalledBundle], Awaitable[str | None]]
"""Tries a bundle before it is used: returns how, or raises `WhisperdError` if it does not work."""


@dataclass(frozen=True)
class Upgrade:
    """The result of an upgrade."""

    installed: InstalledBundle
    """The bundle used from now on."""
    before: str | None
    """The version used before; None if there is no newer one, so that nothing changed."""
    tried: str | None
    """How the new version was tried."""


class NativeStore:
    """The bundles in one folder, as `{version}/{name}`. A shared folder may be read-only.

    Any number of processes may use the same folder: one of them installs a bundle, the others wait
    for it. Versions coexist; the lock that ships with a bundle, or `upgrade`, determines which one is used.
    """

    def __init__(
        self, root: Path, *, offline: bool = False, free_bytes: Callable[[Path], int] = disk.free_bytes
    ) -> None:
        self._root = root
        self._offline = offline
        self._free_bytes = free_bytes
        self._sealed: dict[Path, int] = {}

    def find(self, bundle: Bundle) -> InstalledBundle | None:
        """Return the current version if it is installed. Fast; writes nothing."""
        return self._installed(self.current(bundle))

    def has_to_be_built(self, bundle: Bundle) -> bool:
        """Whether the bundle is not installed, and installing it takes a compiler and several minutes."""
        return bundle.build is not None and self.find(bundle) is None

    def current(self, bundle: Bundle) -> Bundle:
        """Return the bundle with the lock of the current version."""
        choice = self._choice(bundle)
        return bundle if choice is None else _with_lock(bundle, choice.current)

    def previous(self, bundle: Bundle) -> Bundle | None:
        """Return the bundle with the lock that `rollback` would restore; None if it was never upgraded."""
        choice = self._choice(bundle)
        return None if choice is None else _with_lock(bundle, choice.previous)

    async def list(self) -> builtins.list[InstalledBundle]:
        """List every complete bundle in the folder, of every version and Python, by name."""
        return await anyio.to_thread.run_sync(self._list)

    async def install(
        self, bundle: Bundle, on_progress: OnProgress, *, repair: bool = False
    ) -> InstalledBundle:
        """Install the current version, unless it is installed.

        An installed one is checked quickly, or with `repair` by reading every file, and reinstalled if a file
        has changed. Cancelling ends pip and compilers at once and leaves nothing behind. Errors:
        `native.unsupported`, `native.offline`, `disk.full`, `native.not_writable`, `native.in_use`,
        `native.hash_mismatch`, `native.not_found`, `native.no_pip`, `native.build_failed`,
        `network.unreachable`, `network.untrusted`, `native.install_failed`.
        """
        return await self._obtain(self.current(bundle), on_progress, repair=repair)

    async def upgrade(
        self, bundle: Bundle, trial: Trial, on_progress: OnProgress, version: str | None = None
    ) -> Upgrade:
        """Install the newest version that the shipped lock allows, or the one requested, and use it.

        It is installed next to the current version, tried, and only then made current, with one rename. If
        the trial fails, it is removed. The version used before stays for `rollback` and for processes that
        use it; the one before that is removed. Errors: those of `install`, `native.not_upgradable`,
        `native.out_of_range`, `native.upgrade_failed`.
        """
        shipped = bundle.select()
        if self._offline:
            raise offline(bundle.name, shipped.download_bytes)
        async with self._choosing(bundle.name, shipped, on_progress) as key:
            before, found = self.current(bundle), self.find(bundle)
            async with self._stage(key) as stage:
                search = Search(
                    bundle.name, parse_lock(bundle.lock), before.select(), stage, self._root, on_progress
                )
                lock = await search.run(version)
                if lock is None:
                    return Upgrade(await self._obtain(before, on_progress), None, None)
                new = dataclasses.replace(bundle, lock=lock)
                existed = self._installed(new) is not None
                installed = await self._obtain(new, on_progress, wheels=search.wheels)
            try:
                tried = await self._try(installed, trial, on_progress, found)
                oldest = self._choose(bundle, new)
            except BaseException:
                if not existed:
                    with anyio.CancelScope(shield=True):
                        await self._remove_folder(installed)
                raise
            await self._prune(bundle.name, oldest)
            return Upgrade(installed, before.select().version, tried)

    async def rollback(self, bundle: Bundle, on_progress: OnProgress) -> InstalledBundle:
        """Use the version again that was in use before the last upgrade, or before the last rollback.

        Errors: `native.no_previous`; those of `install` if that version was removed meanwhile.
        """
        async with self._choosing(bundle.name, bundle.select(), on_progress):
            previous = self.previous(bundle)
            if previous is None:
                raise no_previous(bundle.name)
            installed = await self._obtain(previous, on_progress)
            self._choose(bundle, previous)
            return installed

    async def verify(
        self,
        installed: InstalledBundle,
        *,
        quickly: bool = False,
        on_progress: OnProgress = ignore_progress,
    ) -> tuple[manifest.Damage, ...]:
        """Return every file that differs from what was installed; empty if all are right.

        `quickly` reads only files touched since the last check; of the rest it compares the total size.
        """
        if quickly:
            return await anyio.to_thread.run_sync(
                manifest.compare_quickly, installed.path, installed.size_bytes, self._sealed
            )
        report, total = from_thread(on_progress), installed.size_bytes
        meter = Meter(installed.name, report, detail="verifying", total=total)
        return await anyio.to_thread.run_sync(manifest.compare, installed.path, meter.report)

    async def remove(self, installed: InstalledBundle) -> None:
        """Remove a bundle. A process that uses it keeps running; on Windows this fails with `native.in_use`.

        If an upgrade had chosen this version, the version before it is used again.
        """
        with os_errors(installed.name, self._root):
            for path in self._choices(installed.name):
                async with self._locked(f"{path.stem}.upgrade"):
                    choice = read_choice(path) or Choice()
                    write_choice(path, choice.without(installed.path.parent.name))
        await self._remove_folder(installed)

    async def left_over(self, bundles: Iterable[Bundle]) -> builtins.list[InstalledBundle]:
        """Return what `prune` would remove."""
        known = {bundle.name: bundle for bundle in bundles}
        return [one for one in await self.list() if self._is_left_over(one, known.get(one.name))]

    async def prune(self, bundles: Iterable[Bundle]) -> builtins.list[InstalledBundle]:
        """Remove all but the current and the previous version of these bundles; return those removed.

        Such bundles are left by other versions of whisperd or Python, or by plugins that were uninstalled.
        Processes that use one keep running, and reinstall it when they need it again; see `remove`.
        """
        known = {bundle.name: bundle for bundle in bundles}
        removed = []
        for installed in await self.left_over(known.values()):
            bundle = known.get(installed.name)
            async with AsyncExitStack() as stack:
                if bundle is not None:  # an upgrade may be about to choose this version
                    choosing = self._choosing(bundle.name, bundle.select(), ignore_progress)
                    await stack.enter_async_context(choosing)
                if self._is_left_over(installed, bundle):
                    await self._remove_folder(installed)
                    removed.append(installed)
        return removed

    async def clear_leftovers(self) -> None:
        """Remove the leftovers of killed installations, as each installation does."""
        await anyio.to_thread.run_sync(self._clear_leftovers, "")

    def _is_left_over(self, installed: InstalledBundle, bundle: Bundle | None) -> bool:
        if bundle is None:
            return True
        try:
            used = (self.current(bundle), self.previous(bundle))
            return installed.path not in [self._path(bundle.name, one.select()) for one in used if one]
        except WhisperdError:  # it is for another computer that shares the folder
            return False

    async def _remove_folder(self, installed: InstalledBundle) -> None:
        key = _key(installed.path)
        with os_errors(installed.name, self._root):
            async with self._locked(key), self._stage(key) as stage:
                _move_away(installed.path, stage / "removed")
                with suppress(OSError):  # not empty
                    installed.path.parent.rmdir()

    def _choice(self, bundle: Bundle) -> Choice | None:
        return read_choice(self._choice_path(bundle.name, bundle.select()))

    def _choice_path(self, name: str, shipped: Selection) -> Path:
        return self._root / _CURRENT / f"{name}-{shipped.folder}.json"

    def _choices(self, name: str) -> builtins.list[Path]:
        """Return the choice files of a bundle: one for each Python and each lock it was shipped with."""
        found = sorted((self._root / _CURRENT).glob(f"{name}-*.json"))
        # Strip version, Python and digest: the name of one bundle may be a prefix of another's.
        return [path for path in found if path.stem.rsplit("-", 3)[0] == name]

    async def _try(
        self,
        installed: InstalledBundle,
        trial: Trial,
        on_progress: OnProgress,
        before: InstalledBundle | None,
    ) -> str | None:
        on_progress(Progress(name=installed.name, detail="trying"))
        try:
            return await trial(installed)
        except WhisperdError as error:
            old = before.version if before else None
            raise upgrade_failed(installed.name, installed.version, old, error) from error

    def _choose(self, bundle: Bundle, new: Bundle) -> str:
        """Make another version current and remember the one before. Returns the folder of the one before
        that."""
        shipped, selection = bundle.select(), new.select()
        before = self._choice(bundle) or Choice()
        is_shipped = selection.digest == shipped.digest
        chosen = None if is_shipped else Chosen(folder=selection.folder, lock=new.lock)
        write_choice(self._choice_path(bundle.name, shipped), Choice(current=chosen, previous=before.current))
        log.info("now using %s %s", bundle.name, selection.version)
        return before.previous.folder if before.previous else shipped.folder

    async def _prune(self, name: str, folder: str) -> None:
        """Remove a version unless a choice could still restore it."""
        for path in self._choices(name):
            choice = read_choice(path) or Choice()
            is_shipped = path.stem == f"{name}-{folder}"
            if choice.mentions(folder) or (is_shipped and None in (choice.current, choice.previous)):
                return
        old = read_installed(self._root / folder / name)
        if old is not None:
            with suppress(WhisperdError):  # a process may use it (Windows)
                await self._remove_folder(old)

    @asynccontextmanager
    async def _choosing(self, name: str, shipped: Selection, on_progress: OnProgress) -> AsyncIterator[str]:
        """Hold the lock for changing which version is used; yield its key."""
        key = f"{name}-{shipped.folder}.upgrade"
        with os_errors(name, self._root):
            async with self._locked(key, on_progress, name):
                yield key

    async def _obtain(
        self,
        bundle: Bundle,
        on_progress: OnProgress,
        *,
        repair: bool = False,
        wheels: Path | None = None,
    ) -> InstalledBundle:
        """Return the bundle of a lock, installing it if necessary."""
        if found := await self._intact(bundle, on_progress, repair):
            return found
        selection = bundle.select()
        destination = self._path(bundle.name, selection)
        if self._offline and self._installed(bundle) is not None:
            raise damaged_offline(bundle.name, destination, selection.download_bytes)
        if self._offline:
            raise offline(bundle.name, selection.download_bytes)
        key = _key(destination)
        with os_errors(bundle.name, self._root):
            async with self._locked(key, on_progress, bundle.name):
                if found := await self._intact(bundle, on_progress, repair):
                    return found
                await self._install(bundle.name, selection, destination, on_progress, wheels)
                installed = self._installed(bundle)  # while the lock is held, no process can remove it
        assert installed is not None
        return installed

    def _installed(self, bundle: Bundle) -> InstalledBundle | None:
        """Return the bundle of a lock if it is installed."""
        selection = bundle.select()
        found = read_installed(self._path(bundle.name, selection))
        return found if found and found.digest == selection.digest else None

    def _list(self) -> builtins.list[InstalledBundle]:
        found = map(read_installed, bundles_in(self._root))
        return sorted(filter(None, found), key=lambda installed: (installed.name, installed.path))

    async def _intact(
        self, bundle: Bundle, on_progress: OnProgress, read_all: bool
    ) -> InstalledBundle | None:
        """Return the bundle if it is installed and undamaged."""
        found = self._installed(bundle)
        if found is None:
            return None
        damage = await self.verify(found, quickly=not read_all, on_progress=on_progress)
        if damage:
            log.warning("%s is damaged: %s", found.path, ", ".join(each.path for each in damage[:5]))
        return None if damage else found

    async def _install(
        self,
        name: str,
        selection: Selection,
        destination: Path,
        on_progress: OnProgress,
        wheels: Path | None,
    ) -> None:
        await anyio.to_thread.run_sync(self._clear_leftovers, _key(destination))
        async with self._stage(_key(destination)) as stage:
            installation = Installation(name, selection, stage, destination, on_progress, wheels)
            free_bytes = self._free_bytes(stage)
            if free_bytes < selection.required_bytes:
                raise disk_full(name, self._root, selection.required_bytes, free_bytes)
            ready = await installation.run()
            _move_into_place(ready, destination, old=stage / "broken")

    def _path(self, name: str, selection: Selection) -> Path:
        return self._root / selection.folder / name

    @asynccontextmanager
    async def _locked(
        self, key: str, on_progress: OnProgress = ignore_progress, name: str = ""
    ) -> AsyncIterator[None]:
        """Hold the lock of a key, which is exclusive across tasks and processes."""
        make_private_folder(self._root)
        (self._root / _LOCKS).mkdir(mode=0o700, exist_ok=True)
        waiting = Progress(name=name, detail="waiting")
        async with hold_lock(self._lock_path(key), lambda: on_progress(waiting)):
            yield

    def _lock_path(self, key: str) -> Path:
        return self._root / _LOCKS / f"{key}.lock"

    @asynccontextmanager
    async def _stage(self, key: str) -> AsyncIterator[Path]:
        """Create a staging folder for the block and remove it afterwards. The caller must hold the lock."""
        stage = self._root / _STAGING / f"{key}.{secrets.token_hex(4)}"
        (self._root / _STAGING).mkdir(mode=0o700, exist_ok=True)
        stage.mkdir()
        try:
            yield stage
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_remove_tree, stage)

    def _clear_leftovers(self, own_key: str) -> None:
        """Remove staging folders of killed installations: those of this key, and those whose lock is free."""
        for stage in disk.contents(self._root / _STAGING):
            key = stage.name.rpartition(".")[0]
            if key == own_key:
                _remove_tree(stage)
                continue
            with suppress(OSError), try_lock(self._lock_path(key)) as is_free:
                if is_free:
                    _remove_tree(stage)


def _with_lock(bundle: Bundle, chosen: Chosen | None) -> Bundle:
    return bundle if chosen is None else dataclasses.replace(bundle, lock=chosen.lock)


def _key(destination: Path) -> str:
    return f"{destination.name}-{destination.parent.name}"


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _move_away(path: Path, target: Path) -> None:
    """Rename a bundle, if it exists. A process that uses it keeps running; on Windows this fails instead."""
    try:
        path.replace(target)
    except FileNotFoundError:
        pass
    except PermissionError as error:
        if os.name == "nt":
            raise in_use(path.name) from error
        raise


def _move_into_place(ready: Path, destination: Path, old: Path) -> None:
    destination.parent.mkdir(exist_ok=True)
    _move_away(destination, old)
    ready.replace(destination)
