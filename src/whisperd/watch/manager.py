"""All watches of the daemon: add, change, run and remove them."""

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
from whisperd.rpc.errors import from_sendable
from whisperd.settings import WatchSettings
from whisperd.tasks import keep_running, open_task_group
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.discovery import Discovery
from whisperd.watch.editing import Editor, checked_inode, normal
from whisperd.watch.errors import exists, stale, to_whisperd_error, unknown_file, unknown_watch
from whisperd.watch.folder import LOOK_TIMEOUT_S, WatchFolder
from whisperd.watch.jobs import WatchJobs
from whisperd.watch.ledger import FileRow, FileStatus, Outcome
from whisperd.watch.names import Selection
from whisperd.watch.notifier import Changes, Notifier
from whisperd.watch.preset import WatchChanges, WatchPreset
from whisperd.watch.scheduler import Scheduler
from whisperd.watch.store import WatchStore
from whisperd.watch.view import status_of, view_of
from whisperd.watch.work import FileWork

__all__ = ["WatchManager"]

log = logging.getLogger(__name__)

ROOT_INTERVAL_S: Final = 30.0
"""How often to check that the watched folders are still the same ones."""
TOGETHER: Final = "all watch folders/."
TOGETHER_S: Final = 5.0
"""How long all folders together may take to respond before each is checked alone."""
REFUSED_INTERVAL_S: Final = 6 * 3600.0
"""How often to ask again for changes in folders for which the system refused to report them."""


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
        """`on_outcome` is called with the outcome of each file and, if the file is done and the time is
        known, the seconds since it settled."""
        self._tasks = tasks
        self._store = store
        self._settings = settings
        self._editor = editor
        self._on_outcome = on_outcome
        self._work = FileWork(store, jobs, settings, self._note_outcome)
        self._jobs = jobs
        self._folders: dict[str, WatchFolder] = {}
        self._scheduler = Scheduler(self._work, self._folders.values())
        self._notifier = Notifier(self._on_changes, self._on_lost, self._on_refused)
        self._saving = anyio.Lock()
        self._any = anyio.Event()
        """Set while there is at least one watch."""

    async def open(self) -> None:
        """Load the saved watches and resume their work."""
        for preset in await self._store.load():
            self._start(preset)
        self._tasks.start_soon(keep_running, self._notifier.run)
        self._tasks.start_soon(keep_running, self._scheduler.run)
        self._tasks.start_soon(keep_running, self._maintain)

    def stop(self) -> None:
        """Start no more files."""
        self._scheduler.stop()

    def all(self) -> list[WatchPreset]:
        """Return every watch, oldest first."""
        return [folder.preset for folder in self._folders.values()]

    def statuses(self) -> Counter[str]:
        """Count the watches by status."""
        return Counter(status_of(folder)[0] for folder in self._folders.values())

    async def views(self) -> list[dict[str, Any]]:
        """Return the wire form of every watch, oldest first."""
        return await self._views(list(self._folders.values()))

    async def view(self, name: str) -> dict[str, Any]:
        """Return the wire form of a watch. Raises `watch.unknown`."""
        (shown,) = await self._views([self._find(name)])
        return shown

    async def _views(self, folders: Sequence[WatchFolder]) -> list[dict[str, Any]]:
        counts = await self._store.files.counts([folder.preset.id for folder in folders])
        name = self._editor.runtime_name
        return [view_of(folder, its, name) for folder, its in zip(folders, counts, strict=True)]

    async def add(self, path: str, changes: WatchChanges) -> WatchPreset:
        """Watch a folder. Also raises the errors of `checked_inode`."""
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
                if one.root == inode:  # the same folder under another name
                    raise exists(one.preset.path)
            await self._store.insert(preset)
            self._start(preset)
        log.info("watch folder %s added", preset.id)
        return preset

    async def edit(self, name: str, changes: WatchChanges, version: int | None = None) -> WatchPreset:
        """Change a watch. Raises `watch.stale` if it has another version than `version`."""
        async with self._saving:
            folder = self._find(name)
            before = folder.preset
            if version is not None and version != before.version:
                raise stale(before, version)
            after = await self._editor.changed(before, changes)
            return await self._save(folder, msgspec.structs.replace(after, version=before.version + 1))

    async def set_paused(self, name: str, *, paused: bool) -> WatchPreset:
        """Pause or resume a watch, whatever its version. Files in progress are finished."""
        async with self._saving:
            folder = self._find(name)
            return await self._save(folder, msgspec.structs.replace(folder.preset, paused=paused))

    async def remove(self, name: str) -> WatchPreset:
        """Remove a watch and cancel its jobs; texts that were written stay."""
        async with self._saving:
            folder = self._find(name)
            preset = folder.preset
            jobs = await self._store.delete(preset.id)  # if this fails, nothing has changed
            del self._folders[preset.id]
            if not self._folders:
                self._any = anyio.Event()
            folder.scope.cancel()
            self._retry_refused()
        for job in jobs:
            self._jobs.cancel(job)
        log.info("watch folder %s removed", preset.id)
        return preset

    async def retry(self, name: str, paths: Sequence[str] | None = None, *, all: bool = False) -> int:
        """Retry failed files, or redo the given files or all, if they exist and are wanted.

        Returns how many.
        """
        folder = self._find(name)
        if paths is not None and not all:
            rows = [await self._known(folder, path) for path in paths]
        else:
            statuses: Sequence[FileStatus] = ("done", "failed", "retrying") if all else ("failed", "retrying")
            rows = await self._store.files.with_status(folder.preset.id, statuses)
            rows = await to_thread.run_sync(_still_wanted, rows, folder.selection)
        count = await self._store.files.try_again(row.id for row in rows)
        folder.note_success()
        folder.recheck(*(row.path for row in rows))
        return count

    async def scan(self, name: str) -> WatchPreset:
        """Scan the whole folder of a watch now, without waiting for its backoff to elapse."""
        folder = self._find(name)
        folder.backoff.try_now()
        await folder.request_scan().wait()
        return folder.preset

    async def log(self, name: str, limit: int) -> list[dict[str, Any]]:
        """Return the log of a watch, oldest first."""
        return await self._store.log.read(self._find(name).preset.id, limit)

    async def retire(self, clock_lead_s: float = 0.0) -> None:
        """Delete what is older than the settings allow. `clock_lead_s` is how far the clock may be ahead."""
        keep_s = self._settings().keep_days * 86_400
        await self._store.retire(list(self._folders), rfc3339_ago(keep_s + clock_lead_s))

    def _find(self, name: str) -> WatchFolder:
        """Return a watch by its id or its folder. Raises `watch.unknown`."""
        paths = {os.path.normpath(one) for one in (name, from_sendable(name))}
        found = self._folders.get(name) or next(
            (one for one in self._folders.values() if one.preset.path in paths), None
        )
        if found is None:
            raise unknown_watch(name, [preset.path for preset in self.all()])
        return found

    async def _known(self, folder: WatchFolder, path: str) -> FileRow:
        """Return a file that exists and is wanted, by its path or as shown. Raises `watch.unknown_file`."""
        for name in (path, from_sendable(path)):
            row = await self._store.files.at(folder.preset.id, _within(folder.preset, name))
            if row is not None and _still_wanted([row], folder.selection):
                return row
        raise unknown_file(path)

    async def _save(self, folder: WatchFolder, after: WatchPreset) -> WatchPreset:
        after = msgspec.structs.replace(after, changed=now_rfc3339())
        await self._store.update(after)
        folder.change(after)
        self._update_notifier()
        return after

    def _start(self, preset: WatchPreset) -> None:
        folder = self._folders[preset.id] = WatchFolder(preset, self._settings, self._folders.values())
        self._any.set()
        self._tasks.start_soon(self._run, folder)

    async def _run(self, folder: WatchFolder) -> None:
        discovery = Discovery(
            folder, self._store, self._work, self._settings, self._on_work, self._notifier.renew
        )
        with folder.scope:
            async with open_task_group() as folder.tasks:
                for row in await self._interrupted(folder.preset.id):
                    self._scheduler.begin(folder, row)
                folder.tasks.start_soon(discovery.run)
                folder.tasks.start_soon(keep_running, folder.desktop.run)
        folder.scanned.set()  # release whoever waits for a scan that will not take place

    async def _interrupted(self, watch: str) -> list[FileRow]:
        """Return the files that were in progress when the last daemon ended; retry until they can be read."""
        while True:
            try:
                return await self._store.files.with_status(watch, ("working", "written"))
            except Exception as error:
                problem = to_whisperd_error(watch, error)
                log.warning("watch folder %s: %s (%s)", watch, problem.message, problem.code)
                await anyio.sleep(self._settings().retry_delay_s)

    def _on_work(self) -> None:
        """Note that there is work to do, or that a folder appeared or disappeared."""
        self._scheduler.wake()
        self._update_notifier()

    def _update_notifier(self) -> None:
        # If two paths now lead to the same folder, the recursive watch wins.
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
            folder.is_refused = True
            folder.poll()

    def _retry_refused(self) -> None:
        """Ask the system again to report changes where it refused to: there may be room now."""
        refused = [folder for folder in self._folders.values() if folder.is_refused]
        for folder in refused:
            folder.is_refused = False
        self._update_notifier()
        if refused:
            self._notifier.renew()

    def _folders_at(self, path: str) -> list[WatchFolder]:
        """Return the watches of this path: perhaps none any longer, or several, if links lead to it."""
        return [folder for folder in self._folders.values() if folder.real == path]

    async def _maintain(self) -> None:
        """Check regularly that the folders are the same ones, and whether refused ones can be reported on."""
        asked_s = anyio.current_time()
        while True:
            await self._any.wait()  # without watches, this task never wakes
            await anyio.sleep(ROOT_INTERVAL_S)
            await self._check_folders([one for one in self._folders.values() if not one.is_polled])
            if anyio.current_time() - asked_s > REFUSED_INTERVAL_S:
                asked_s = anyio.current_time()
                self._retry_refused()

    async def _check_folders(self, folders: Sequence[WatchFolder]) -> None:
        """Request scans of folders that were replaced. One thread checks them all while they all respond."""
        if not folders:
            return
        before = [folder.landmarks for folder in folders]

        def look() -> list[dict[str, str | None]]:
            return [{path: scanner.folder_inode(path) for path in landmarks} for landmarks in before]

        # A path of its own, so that these checks use no thread that scans of a folder need.
        is_alone = len(folders) == 1
        where = os.path.join(folders[0].preset.path, ".", ".") if is_alone else TOGETHER
        try:
            now = await run_abandonable(where, look, LOOK_TIMEOUT_S if is_alone else TOGETHER_S)
        except TimeoutError:
            if is_alone:
                return  # its own scan notices that, and switches to polling
            async with open_task_group() as tasks:
                for folder in folders:  # one hanging folder does not hold up the others
                    tasks.start_soon(self._check_folders, [folder])
            return
        for folder, landmarks, found in zip(folders, before, now, strict=True):
            if found != landmarks and not folder.is_scanning:
                folder.request_scan()

    def _note_outcome(self, folder: WatchFolder, path: str, outcome: Outcome) -> None:
        now_s = anyio.current_time()
        settled_for_s = folder.pending.settled_for_s(path, now_s) if outcome != "retried" else None
        self._on_outcome(outcome, settled_for_s if outcome == "done" else None)
        if folder.preset.notify and outcome == "done":
            folder.desktop.note(os.path.basename(path))


def _still_wanted(rows: Sequence[FileRow], selection: Selection) -> list[FileRow]:
    """Return the files that exist and match the current patterns."""
    return [row for row in rows if row.gone is None and selection.takes(row.path)]


def _within(preset: WatchPreset, path: str) -> str:
    return os.path.relpath(path, preset.path) if os.path.isabs(path) else path
