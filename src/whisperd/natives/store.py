"""The folder of native bundles: what is installed, and the way in and out of it."""

from __future__ import annotations

import builtins
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread

from whisperd import disk
from whisperd.locks import hold_lock, try_lock
from whisperd.natives import manifest
from whisperd.natives.bundle import Bundle, InstalledBundle, read_installed
from whisperd.natives.errors import disk_full, from_os_error, in_use, offline
from whisperd.natives.install import Installation
from whisperd.natives.lock import Selection
from whisperd.progress import OnProgress, Progress

__all__ = ["NativeStore"]

_STAGING, _LOCKS = ".staging", ".locks"


class NativeStore:
    """The bundles under one folder, as `{version}/{name}`. A shared folder may be read only.

    Any number of processes may use the same folder: one of them installs a bundle, the others wait
    for it.
    """

    def __init__(
        self, root: Path, *, offline: bool = False, free_bytes: Callable[[Path], int] = disk.free_bytes
    ) -> None:
        self._root = root
        self._offline = offline
        self._free_bytes = free_bytes

    def find(self, bundle: Bundle) -> InstalledBundle | None:
        """The bundle as its lock has it for this computer, if it is installed. Cheap; writes nothing."""
        selection = bundle.select()
        found = read_installed(self._path(bundle.name, selection))
        return found if found and found.digest == selection.digest else None

    async def list(self) -> builtins.list[InstalledBundle]:
        """Every complete bundle in the folder, of every version and Python, by name."""
        return await anyio.to_thread.run_sync(self._list)

    async def install(
        self, bundle: Bundle, on_progress: OnProgress, *, mend: bool = False
    ) -> InstalledBundle:
        """Install a bundle unless it is there. Cancelling ends pip at once and leaves nothing.

        With `mend`, every file of a bundle that is there is read, and it is installed anew if one is
        not as it was. Errors: `native.unsupported`, `native.offline`, `disk.full`,
        `native.not_writable`, `native.in_use`, `native.hash_mismatch`, `native.not_found`,
        `native.no_pip`, `network.unreachable`, `network.untrusted`, `native.install_failed`.
        """
        if found := await self._find(bundle, on_progress, mend):
            return found
        selection = bundle.select()
        if self._offline:
            raise offline(bundle.name, selection.download_bytes)
        destination = self._path(bundle.name, selection)
        try:
            async with self._locked(destination, on_progress):
                if found := await self._find(bundle, on_progress, mend):
                    return found
                await self._install(bundle.name, selection, destination, on_progress)
        except OSError as error:
            raise from_os_error(bundle.name, self._root, error) from error
        installed = self.find(bundle)
        assert installed is not None
        return installed

    async def verify(self, installed: InstalledBundle) -> tuple[manifest.Damage, ...]:
        """Every file that is not as it was installed; empty when all is well."""
        return await anyio.to_thread.run_sync(manifest.compare, installed.path)

    async def remove(self, installed: InstalledBundle) -> None:
        """Remove a bundle. A process that uses it goes on; Windows refuses instead, with `native.in_use`."""
        try:
            async with self._locked(installed.path), self._stage(installed.path) as stage:
                _set_aside(installed.path, stage / "removed")
                with suppress(OSError):  # not empty
                    installed.path.parent.rmdir()
        except OSError as error:
            raise from_os_error(installed.name, self._root, error) from error

    def _list(self) -> builtins.list[InstalledBundle]:
        folders = self._root.glob("[!.]*/[!.]*")
        found = (read_installed(folder) for folder in folders)
        return sorted(filter(None, found), key=lambda installed: (installed.name, installed.path))

    async def _find(self, bundle: Bundle, on_progress: OnProgress, mend: bool) -> InstalledBundle | None:
        """The bundle, if it need not be installed."""
        found = self.find(bundle)
        if found and mend:
            on_progress(Progress(name=bundle.name, detail="verifying"))
            return None if await self.verify(found) else found
        return found

    async def _install(
        self, name: str, selection: Selection, destination: Path, on_progress: OnProgress
    ) -> None:
        await anyio.to_thread.run_sync(self._clear_leftovers, destination)
        async with self._stage(destination) as stage:
            installation = Installation(name, selection, stage, destination, on_progress)
            free_bytes = self._free_bytes(stage)
            if free_bytes < installation.required_bytes:
                raise disk_full(name, self._root, installation.required_bytes, free_bytes)
            ready = await installation.run()
            _move_into_place(ready, destination, aside=stage / "broken")

    def _path(self, name: str, selection: Selection) -> Path:
        return self._root / selection.folder / name

    @asynccontextmanager
    async def _locked(
        self, destination: Path, on_progress: OnProgress = lambda _: None
    ) -> AsyncIterator[None]:
        """Hold what makes this task the only one, in any process, that changes the destination."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._root / _LOCKS).mkdir(mode=0o700, exist_ok=True)
        waiting = Progress(name=destination.name, detail="waiting")
        async with hold_lock(self._lock_path(_key(destination)), lambda: on_progress(waiting)):
            yield

    def _lock_path(self, key: str) -> Path:
        return self._root / _LOCKS / f"{key}.lock"

    @asynccontextmanager
    async def _stage(self, destination: Path) -> AsyncIterator[Path]:
        """A folder for one piece of work, gone afterwards. Only who holds the lock may have one."""
        stage = self._root / _STAGING / f"{_key(destination)}.{secrets.token_hex(4)}"
        (self._root / _STAGING).mkdir(mode=0o700, exist_ok=True)
        stage.mkdir()
        try:
            yield stage
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_remove_tree, stage)

    def _clear_leftovers(self, destination: Path) -> None:
        """Remove what killed installations left: those of this lock, and those whose lock is free."""
        for stage in (self._root / _STAGING).glob("*"):
            key = stage.name.rpartition(".")[0]
            if key == _key(destination):
                _remove_tree(stage)
                continue
            with try_lock(self._lock_path(key)) as is_free:
                if is_free:
                    _remove_tree(stage)


def _key(destination: Path) -> str:
    return f"{destination.name}-{destination.parent.name}"


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path, aside: Path) -> None:
    """Rename a bundle, or what is left of one. A process that uses it goes on; Windows refuses instead."""
    try:
        path.replace(aside)
    except FileNotFoundError:
        pass
    except PermissionError as error:
        if os.name == "nt":
            raise in_use(path.name) from error
        raise


def _move_into_place(ready: Path, destination: Path, aside: Path) -> None:
    destination.parent.mkdir(exist_ok=True)
    _set_aside(destination, aside)
    ready.replace(destination)
