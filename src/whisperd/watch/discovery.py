"""Scan a watched folder: find its files and decide which need work. Doing that work is left to `work`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import anyio
import msgspec

from whisperd.clock import now_rfc3339, rfc3339_ago, seconds_until
from whisperd.settings import WatchSettings
from whisperd.watch import scanner
from whisperd.watch.absence import Missing, find_missing
from whisperd.watch.errors import absent, to_whisperd_error
from whisperd.watch.failures import LONGEST_DELAY_S
from whisperd.watch.folder import WatchFolder
from whisperd.watch.ledger import FileRow, Seen, wants_work
from whisperd.watch.log_table import LogLine
from whisperd.watch.mounts import file_system_of, needs_polling
from whisperd.watch.names import Selection, is_same_name
from whisperd.watch.store import WatchStore
from whisperd.watch.work import FileWork
from whisperd.watch.writing import remove_leftover

__all__ = ["Discovery"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SLICE: Final = 250
"""Files that are checked and looked up at a time, so that other work need not wait long."""
SLICE_S: Final = 5.0
"""How long to search before returning what was found so far, so that a slow scan is not taken for a hanging
one."""
NOT_MOUNTED: Final = (
    "The disk that was mounted there is no longer mounted; what is known about its files is kept."
)
MOUNTED: Final = "The folder is no longer the empty mount point of a missing disk."
REMEMBERED_PARTIALS: Final = 1000
RENAMED_IN_S: Final = 5.0
"""The longest time between the disappearance of a file's old name and the appearance of its new one."""


class Discovery:
    """Scans a folder, and puts the files that need work into its `pending`."""

    def __init__(
        self,
        folder: WatchFolder,
        store: WatchStore,
        work: FileWork,
        settings: Callable[[], WatchSettings],
        notify: Callable[[], None],
        on_replaced: Callable[[], None],
    ) -> None:
        """`notify` is called when there is work to do, or when the set of folders to watch must change;
        `on_replaced` when the folder or a disk mounted in it was replaced by another one of the same path, in
        which the kernel does not report changes yet.
        """
        self._folder = folder
        self._watch, self._path = folder.preset.id, folder.preset.path
        self._pending = folder.pending
        self._store = store
        self._work = work
        self._settings = settings
        self._notify = notify
        self._on_replaced = on_replaced
        self._partials: dict[str, None] = {}
        """Inodes of files seen under the name of an unfinished file."""
        self._was_absent = False
        """Whether the folder was reported as absent."""

    async def run(self) -> None:
        """Scan the folder whenever that is due, until cancelled. After an error, try again later."""
        folder = self._folder
        while True:
            with anyio.move_on_after(self._idle_for_s()):
                await folder.wake.wait()
            folder.wake = anyio.Event()
            try:
                await self._check()
            except Exception as error:
                folder.problem = to_whisperd_error(self._watch, error)
                log.warning(
                    "watch folder %s: %s (%s)", self._watch, folder.problem.message, folder.problem.code
                )
                await anyio.sleep(self._settings().retry_delay_s)
                folder.request_scan()
            else:
                if folder.root is not None:
                    folder.problem = None

    def _idle_for_s(self) -> float:
        folder = self._folder
        if folder.hints and folder.root is not None:
            return 0.0
        return max(0.0, min(folder.next_scan_s, self._pending.next_look_s()) - anyio.current_time())

    async def _check(self) -> None:
        folder = self._folder
        self._pending.settling.settle_s = self._settings().settle_s
        try:
            if anyio.current_time() >= folder.next_scan_s:
                await self._scan()
            if folder.hints and folder.root is not None:
                hints, folder.hints = folder.hints, {}
                await self._check_hints(hints)
            for part in _slices(self._pending.due(anyio.current_time())):
                await self._sift(await self._existing(part))
        except TimeoutError:
            log.warning("watch folder %s: the folder does not respond", self._watch)
            folder.is_silent = True
            folder.poll()
            await self._set_absent("The folder does not respond.")

    # Full scans

    async def _scan(self) -> None:
        """Scan the whole folder, and check which known files no longer exist."""
        folder = self._folder
        folder.next_scan_s, folder.is_scanning = float("inf"), True
        scanned, folder.scanned = folder.scanned, anyio.Event()
        try:
            await self._scan_all()
        finally:
            folder.is_scanning = False
            scanned.set()
            settings = self._settings()
            interval_s = settings.poll_interval_s if folder.is_polled else settings.scan_interval_s
            folder.scan_by(anyio.current_time() + interval_s)

    async def _scan_all(self) -> None:
        folder, path, move_to = self._folder, self._path, self._folder.preset.move_to
        paths = [path] if move_to is None else [path, move_to]
        folder.places = await folder.in_thread(lambda: {one: scanner.place_of(one) for one in paths})
        if (root := folder.places[path].inode) is None:
            await self._set_absent("The folder does not exist or cannot be read.")
            return
        is_same = root == folder.root and "" not in folder.unmounted
        await self._set_present(root)
        await self._walk(folder.selection)
        for part in _slices(list(self._pending.queue)):
            await self._existing(part)  # a deletion may have gone unreported
        await self._mark_missing(root, is_same=is_same)

    async def _walk(self, selection: Selection, start: str = "") -> None:
        walk = scanner.walk(self._path, selection, start, remove_leftover)
        while found := await self._folder.in_thread(lambda: scanner.next_batch(walk, SLICE, SLICE_S)):
            if files := [seen for seen in found if seen is not None]:
                await self._sift(files)

    async def _set_present(self, root: str) -> None:
        folder, before, was_absent = self._folder, self._folder.root, self._was_absent
        if root == before:
            return
        file_system = await folder.in_thread(lambda: file_system_of(self._path))
        folder.is_silent, folder.is_refused = needs_polling(file_system), False
        folder.root, folder.problem, self._was_absent = root, None, False
        if was_absent:
            log.info("watch folder %s: the folder is back", self._watch)
        self._notify()  # before the log write, which may fail: nothing repeats this for the root
        if before is not None and not folder.is_polled:  # some network drives report a new inode each time
            self._on_replaced()
        if was_absent:
            await self._store.log.add(self._watch, LogLine("back", None, "The folder is back."))

    async def _set_absent(self, message: str) -> None:
        """Note that the folder is absent; the state of its files stays unchanged."""
        folder, was_absent = self._folder, self._was_absent
        folder.root, self._was_absent = None, True
        self._pending.queue.clear()
        folder.hints.clear()
        fix = "Connect or mount its disk, or create the folder again; whisperd checks for it regularly."
        folder.problem = absent(self._path, message, fix)
        if not was_absent:
            log.info("watch folder %s: the folder is absent", self._watch)
            await self._store.log.add(self._watch, LogLine("absent", None, message))
        self._notify()

    async def _mark_missing(self, root: str, *, is_same: bool) -> None:
        # Files in progress that were already missing before this scan, and that it found under no other name.
        at_work = await self._store.files.with_status(self._watch, ("working", "written"))
        await self._forget_missing([row for row in at_work if row.gone], root, is_same=is_same)
        last, unmounted = "", dict[str, str]()
        while rows := await self._store.files.present(self._watch, last, SLICE):
            last = rows[-1].path
            unmounted |= await self._forget_missing(rows, root, is_same=is_same)
        before, self._folder.unmounted = self._folder.unmounted, unmounted
        mounted = [place for place in before if place not in unmounted]
        if mounted and not self._folder.is_polled:
            self._on_replaced()
        lines = [LogLine("absent", place or None, NOT_MOUNTED) for place in unmounted if place not in before]
        lines += [LogLine("back", place or None, MOUNTED) for place in mounted]
        if lines:
            await self._store.log.add(self._watch, *lines)

    # Reported changes

    async def _check_hints(self, hints: Mapping[str, bool]) -> None:
        selection, root, gone = self._folder.selection, self._folder.root, list[str]()
        assert root is not None
        for part in _slices(hints.items()):
            files, folders, missing = await self._folder.in_thread(
                partial(scanner.classify, self._path, selection, part, self._note_partial)
            )
            await self._sift([seen for seen, _ in files], {seen.path for seen, is_new in files if is_new})
            for folder in folders:
                await self._walk(selection, folder)
            gone += missing
        for path in gone:  # last: a renamed file has been found under its new name by then
            if not path:
                self._folder.request_scan()
                continue
            self._pending.drop(path)
            if rows := await self._store.files.below(self._watch, path):
                await self._forget_missing(rows, root)

    def _note_partial(self, inode: str) -> None:
        self._partials[inode] = None
        while len(self._partials) > REMEMBERED_PARTIALS:
            del self._partials[next(iter(self._partials))]

    # Single files

    async def _forget_missing(
        self, rows: Sequence[FileRow], root: str, *, is_same: bool = True
    ) -> dict[str, str]:
        """Mark those of these files that are missing, if the folder exists; return `Missing.unmounted`."""
        selection = self._folder.selection

        def look() -> Missing:
            missing = find_missing(self._path, selection, rows, is_same=is_same)
            if any(missing) and scanner.folder_inode(self._path) != root:
                return Missing([], {})
            return missing

        gone, unmounted = await self._folder.in_thread(look)
        for row in gone:
            self._pending.drop(row.path)
            await self._work.forget(self._folder.preset, row)
        if gone:
            await self._store.files.mark_gone([row.id for row in gone])
        # A file in progress that is not found under another name by then is no longer waited for.
        if any(
            row.gone is None and (row.status == "working" or self._work.awaits_followup(row)) for row in gone
        ):
            self._folder.scan_by(anyio.current_time() + RENAMED_IN_S)
        return unmounted

    async def _existing(self, paths: Sequence[str]) -> list[Seen]:
        """Return the files that exist, and drop the others from `pending`."""
        found = await self._folder.in_thread(lambda: [scanner.look_at(self._path, path) for path in paths])
        for path, seen in zip(paths, found, strict=True):
            if seen is None:
                self._pending.drop(path)
        return [seen for seen in found if seen is not None]

    async def _sift(self, found: Sequence[Seen], new: Iterable[str] = ()) -> None:
        """Sort out which files are known and which need work; files in `new` may have been renamed here."""
        folder = self._folder
        if not found:
            return
        if folder.preset.include:  # otherwise only audio and video files are taken, and outputs are neither
            found = await self._store.outputs.absent_from(self._path, found)
        looked_up = await self._store.files.look_up(self._watch, found)
        recognised = await folder.in_thread(
            lambda: [(one[0], scanner.recognised(self._path, *one)) for one in looked_up]
        )
        renumbered = {
            row.id: seen.identity
            for seen, (verdict, row) in recognised
            if row is not None and verdict == "same" and row.identity != seen.identity
        }
        if renumbered:
            await self._store.files.renumber(renumbered)
        # Renamed files first: another file may have the old name now.
        recognised.sort(key=lambda one: one[1].verdict != "moved")
        latest = rfc3339_ago(-max(self._settings().retry_delay_s, LONGEST_DELAY_S))
        is_due, new = partial(wants_work, now=now_rfc3339(), latest=latest), set(new)
        for seen, (verdict, row) in recognised:
            if verdict == "unknown":
                moved_in = seen.path in new or seen.identity.inode in self._partials
                wall_ns = None if folder.is_polled else time.time_ns()
                self._pending.observe(seen, anyio.current_time(), wall_ns, moved_in=moved_in)
            elif row is not None and verdict == "same":
                await self._same(row, seen, is_due)
            elif row is not None and verdict == "moved":
                await self._moved(row, seen, is_due)
        self._notify()

    async def _same(self, row: FileRow, seen: Seen, is_due: Callable[[FileRow], bool]) -> None:
        self._pending.settling.forget(seen.path)
        # A file in its follow-up may be about to be removed, which is noted first.
        if row.gone is not None and not (row.status == "written" and self._pending.defers(seen.path)):
            # The file is back. Start over if it had failed, or if it was deleted together with its texts.
            changes: dict[str, Any] = {"gone": None}
            if row.status == "failed" or (
                row.status == "done" and not await self._work.has_texts(self._folder, row)
            ):
                changes["status"] = "lost"
            await self._store.files.update(row.id, **changes)
            row = msgspec.structs.replace(row, **changes)
        self._do_when_due(row, seen, is_due)

    async def _moved(self, row: FileRow, seen: Seen, is_due: Callable[[FileRow], bool]) -> None:
        if self._pending.defers(seen.path):
            return
        if is_same_name(row.path, seen.path):  # the old name may still lead to the file
            self._pending.drop(row.path)
        else:
            await self._existing([row.path])  # another file may have the old name now
        self._pending.settling.forget(seen.path)
        await self._work.rename(self._folder, row, seen)
        self._do_when_due(row, seen, is_due)

    def _do_when_due(self, row: FileRow, seen: Seen, is_due: Callable[[FileRow], bool]) -> None:
        if is_due(row) or self._work.awaits_followup(row):
            self._pending.enqueue(seen, anyio.current_time())
        elif row.status == "retrying" and row.retry_at is not None:
            self._folder.retry_in(seen.path, seconds_until(row.retry_at))


def _slices(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, SLICE)):
        yield part
