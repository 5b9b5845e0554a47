"""Every watch there is: added, looked after, and worked through in turns."""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import TaskGroup

from whisperd.clock import now_rfc3339, rfc3339_ago
from whisperd.rpc.errors import WhisperdError, from_sendable
from whisperd.settings import WatchSettings
from whisperd.tasks import open_task_group
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.editing import Editor, checked_inode, normal
from whisperd.watch.errors import exists, stale, unknown_file, unknown_watch
from whisperd.watch.folder import LOOK_TIMEOUT_S, WatchFolder
from whisperd.watch.jobs import WatchJobs
from whisperd.watch.ledger import FileRow, FileStatus, Outcome
from whisperd.watch.lookout import Lookout
from whisperd.watch.names import Selection
from whisperd.watch.notifier import Changes, Notifier
from whisperd.watch.preset import WatchChanges, WatchPreset
from whisperd.watch.store import WatchStore
from whisperd.watch.turns import Turns
from whisperd.watch.view import status_of, view_of
from whisperd.watch.work import FileWork

__all__ = ["WatchManager"]

log = logging.getLogger(__name__)

ROOT_INTERVAL_S: Final = 30.0
"""How often we look whether the folders are still the same ones."""
TOGETHER: Final = "all watch folders/."
TOGETHER_S: Final = 5.0
"""How long they may take to answer one after the other, before each is asked alone."""
RETIRE_INTERVAL_S: Final = 6 * 3600.0


class WatchManager:
    """The watches of a daemon. Actions raise `WhisperdError`: `watch.unknown`, `watch.exists`, `watch.stale`,
    `watch.invalid`."""

    def __init__(
        self,
        tasks: TaskGroup,
        store: WatchStore,
        jobs: WatchJobs,
        settings: Callable[[], WatchSettings],
        editor: Editor,
        on_outcome: Callable[[Outcome, float | None], None],
    ) -> None:
        """`on_outcome` is told what became of a file, and how many seconds ago it had settled, if it is done
        and that is known."""
        self._tasks = tasks
        self._store = store
        self._settings = settings
        self._editor = editor
        self._on_outcome = on_outcome
        self._work = FileWork(store, jobs, settings, self._note_outcome)
        self._jobs = jobs
        self._folders: dict[str, WatchFolder] = {}
        self._turns = Turns(self._work, self._folders.values())
        self._notifier = Notifier(self._on_changes, self._on_lost, self._on_refused)
        self._saving = anyio.Lock()
        self._any = anyio.Event()
        """Set while there is a watch."""

    async def open(self) -> None:
        """Read what is saved, and go on with it."""
        for preset in await self._store.load():
            self._begin(preset)
        self._tasks.start_soon(self._notifier.run)
        self._tasks.start_soon(self._turns.run)
        self._tasks.start_soon(self._look_after)

    def stop(self) -> None:
        """Begin nothing more."""
        self._turns.stop()

    def all(self) -> list[WatchPreset]:
        """Every watch, the oldest first."""
        return [folder.preset for folder in self._folders.values()]

    def statuses(self) -> Counter[str]:
        """How many watches have each status."""
        return Counter(status_of(folder)[0] for folder in self._folders.values())

    async def views(self) -> list[dict[str, Any]]:
        """What is told of every watch, the oldest first."""
        return await self._views(list(self._folders.values()))

    async def view(self, name: str) -> dict[str, Any]:
        """What is told of a watch. Raises `watch.unknown`."""
        (shown,) = await self._views([self._find(name)])
        return shown

    async def _views(self, folders: Sequence[WatchFolder]) -> list[dict[str, Any]]:
        counts = await self._store.files.counts([folder.preset.id for folder in folders])
        name = self._editor.runtime_name
        return [view_of(folder, its, name) for folder, its in zip(folders, counts, strict=True)]

    async def add(self, path: str, changes: WatchChanges) -> WatchPreset:
        """Watch a folder. Raises what `checked_inode` does as well."""
        path = normal(path)
        now = now_rfc3339()
        async with self._saving:
            preset = await self._editor.changed(
                WatchPreset(id=secrets.token_hex(4), path=path, created=now, changed=now), changes
            )
            if any(one.path == path for one in self.all()):
                raise exists(path)
            inode = await checked_inode(path)
            for one in self._folders.values():
                if one.root == inode:  # another name of the same folder
                    raise exists(one.preset.path)
            await self._store.insert(preset)
            self._begin(preset)
        log.info("watch %s is added", preset.id)
        return preset

    async def edit(self, name: str, changes: WatchChanges, version: int | None = None) -> WatchPreset:
        """Change a watch; one with another version than `version` is refused."""
        async with self._saving:
            folder = self._find(name)
            before = folder.preset
            if version is not None and version != before.version:
                raise stale(before, version)
            after = await self._editor.changed(before, changes)
            return await self._save(folder, msgspec.structs.replace(after, version=before.version + 1))

    async def set_paused(self, name: str, *, paused: bool) -> WatchPreset:
        """Begin nothing more in a watch, or go on. What has begun is finished. No edit is in its way."""
        async with self._saving:
            folder = self._find(name)
            return await self._save(folder, msgspec.structs.replace(folder.preset, paused=paused))

    async def remove(self, name: str) -> WatchPreset:
        """Watch a folder no more: its jobs are cancelled; what was written stays."""
        async with self._saving:
            folder = self._find(name)
            preset = folder.preset
            jobs = await self._store.delete(preset.id)  # if that cannot be, all stays as it is
            del self._folders[preset.id]
            if not self._folders:
                self._any = anyio.Event()
            folder.scope.cancel()
            self._rearrange()
        for job in jobs:
            self._jobs.cancel(job)
        log.info("watch %s is removed", preset.id)
        return preset

    async def retry(self, name: str, paths: Sequence[str] | None = None, *, all: bool = False) -> int:
        """Try again what has failed, or do these files again, or all: of those that are there and wanted;
        returns how many."""
        folder = self._find(name)
        if paths is not None and not all:
            rows = [await self._known(folder, path) for path in paths]
        else:
            statuses: Sequence[FileStatus] = ("done", "failed", "retrying") if all else ("failed", "retrying")
            rows = await self._store.files.with_status(folder.preset.id, statuses)
            rows = await to_thread.run_sync(_still_wanted, rows, folder.selection)
        count = await self._store.files.try_again(row.id for row in rows)
        folder.went_well()
        folder.look_at(*(row.path for row in rows))
        return count

    async def scan(self, name: str) -> WatchPreset:
        """Look at everything in a watch now, also while its surroundings are waited for."""
        folder = self._find(name)
        folder.held.try_now()
        await folder.request_scan().wait()
        return folder.preset

    async def log(self, name: str, limit: int) -> list[dict[str, Any]]:
        """What happened in a watch, the oldest first."""
        return await self._store.log.read(self._find(name).preset.id, limit)

    def _find(self, name: str) -> WatchFolder:
        """A watch by its id or its folder. Raises `watch.unknown`."""
        paths = {os.path.normpath(one) for one in (name, from_sendable(name))}
        found = self._folders.get(name) or next(
            (one for one in self._folders.values() if one.preset.path in paths), None
        )
        if found is None:
            raise unknown_watch(name, [preset.path for preset in self.all()])
        return found

    async def _known(self, folder: WatchFolder, path: str) -> FileRow:
        """A file that is there and wanted, by its name or as it is shown. Raises `watch.unknown_file`."""
        for name in (path, from_sendable(path)):
            row = await self._store.files.at(folder.preset.id, _within(folder.preset, name))
            if row is not None and _still_wanted([row], folder.selection):
                return row
        raise unknown_file(path)

    async def _save(self, folder: WatchFolder, after: WatchPreset) -> WatchPreset:
        after = msgspec.structs.replace(after, changed=now_rfc3339())
        await self._store.update(after)
        folder.change(after)
        self._rearrange()
        return after

    def _begin(self, preset: WatchPreset) -> None:
        folder = self._folders[preset.id] = WatchFolder(preset, self._settings, self._folders.values())
        self._any.set()
        self._tasks.start_soon(self._run, folder)

    async def _run(self, folder: WatchFolder) -> None:
        lookout = Lookout(folder, self._store, self._work, self._settings, self._notice)
        with folder.scope:
            async with open_task_group() as folder.tasks:
                for row in await self._begun(folder.preset.id):
                    self._turns.begin(folder, row)
                folder.tasks.start_soon(lookout.run)
                folder.tasks.start_soon(folder.desktop.run)
        folder.scanned.set()  # nobody is left waiting for what will not be

    async def _begun(self, watch: str) -> list[FileRow]:
        """The files of a watch that a daemon was at work on; read until that can be done."""
        while True:
            try:
                return await self._store.files.with_status(watch, ("working", "written"))
            except WhisperdError as error:
                log.warning("watch %s: %s (%s)", watch, error.message, error.code)
                await anyio.sleep(self._settings().retry_delay_s)

    def _notice(self) -> None:
        """There is something to do, or a folder came or went."""
        self._turns.wake()
        self._rearrange()

    def _rearrange(self) -> None:
        # Where two are one by now, the recursive one wins.
        folders = sorted(self._folders.values(), key=lambda folder: folder.preset.recursive)
        self._notifier.watch(
            {
                folder.real: folder.preset.recursive
                for folder in folders
                if folder.root is not None and not folder.is_polled
            }
        )

    def _on_changes(self, changes: Changes) -> None:
        places = {folder.real for folder in self._folders.values()}
        hints: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        watched_above = cache(lambda path: [place for place in scanner.up_from(path) if place in places])
        for path, is_new in changes.items():
            for place in watched_above(os.path.dirname(path)):
                hints[place][path] = is_new
            if path in places:
                hints[path][path] = is_new
        for place, its_own in hints.items():
            for folder in self._folders_at(place):
                path = folder.preset.path
                folder.hint({path + one.removeprefix(place): is_new for one, is_new in its_own.items()})

    def _on_lost(self, path: str) -> None:
        for folder in self._folders_at(path):
            folder.request_scan()

    def _on_refused(self, path: str) -> None:
        for folder in self._folders_at(path):
            folder.poll()

    def _folders_at(self, path: str) -> list[WatchFolder]:
        """What is watched there: links may have come to lead to one folder, or it is watched no more."""
        return [folder for folder in self._folders.values() if folder.real == path]

    async def _look_after(self) -> None:
        """See whether the folders are still the same ones, and forget what is old."""
        retired_s = anyio.current_time()
        await self._retire()
        while True:
            await self._any.wait()  # who watches nothing is never woken
            await anyio.sleep(ROOT_INTERVAL_S)
            await self._see_whether_same([one for one in self._folders.values() if not one.is_polled])
            if anyio.current_time() - retired_s > RETIRE_INTERVAL_S:
                retired_s = anyio.current_time()
                await self._retire()

    async def _see_whether_same(self, folders: Sequence[WatchFolder]) -> None:
        """Have those looked through that are not what they were: in one thread, where all of them answer."""
        if not folders:
            return
        before = [folder.landmarks for folder in folders]

        def look() -> list[dict[str, str | None]]:
            return [{path: scanner.folder_inode(path) for path in landmarks} for landmarks in before]

        # A name of their own: who only looks at folders holds no thread of those who look into one.
        is_alone = len(folders) == 1
        where = os.path.join(folders[0].preset.path, ".", ".") if is_alone else TOGETHER
        try:
            now = await run_abandonable(where, look, LOOK_TIMEOUT_S if is_alone else TOGETHER_S)
        except TimeoutError:
            if is_alone:
                return  # it finds that out by itself, and is polled then
            async with open_task_group() as tasks:
                for folder in folders:  # one keeps nobody from the others
                    tasks.start_soon(self._see_whether_same, [folder])
            return
        for folder, landmarks, found in zip(folders, before, now, strict=True):
            if found != landmarks and not folder.is_scanning:
                folder.request_scan()
                if folder.root is not None:
                    self._notifier.renew()

    async def _retire(self) -> None:
        moment = rfc3339_ago(self._settings().keep_days * 86_400)
        try:
            await self._store.retire(list(self._folders), moment)
        except WhisperdError as error:
            log.warning("old lines of the ledger cannot be deleted: %s (%s)", error.message, error.code)

    def _note_outcome(self, folder: WatchFolder, path: str, outcome: Outcome) -> None:
        now_s = anyio.current_time()
        settled_for_s = folder.pending.settled_for_s(path, now_s) if outcome != "retried" else None
        self._on_outcome(outcome, settled_for_s if outcome == "done" else None)
        if folder.preset.notify and outcome == "done":
            folder.desktop.note(os.path.basename(path))


def _still_wanted(rows: Sequence[FileRow], selection: Selection) -> list[FileRow]:
    """Those that are there and would be taken today."""
    return [row for row in rows if row.gone is None and selection.takes(row.path)]


def _within(preset: WatchPreset, path: str) -> str:
    return os.path.relpath(path, preset.path) if os.path.isabs(path) else path
