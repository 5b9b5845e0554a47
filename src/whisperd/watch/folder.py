"""One watched folder: what is in it, and what of that is to be done. It decides nothing about how."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import anyio
import msgspec

from whisperd.clock import now_rfc3339, rfc3339_ago, seconds_until
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.absence import missing_of
from whisperd.watch.errors import absent, told
from whisperd.watch.failures import LONGEST_DELAY_S
from whisperd.watch.hold import Hold
from whisperd.watch.ledger import FileRow, Seen, recognise, wants_work
from whisperd.watch.log_table import LogLine
from whisperd.watch.mounts import file_system_of, is_silent
from whisperd.watch.names import Place, Selection, left_alone
from whisperd.watch.pending import Pending
from whisperd.watch.preset import WatchPreset
from whisperd.watch.quiet import quiet_now_for_s
from whisperd.watch.store import WatchStore
from whisperd.watch.writing import remove_leftover

__all__ = ["WatchFolder"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SLICE: Final = 250
"""Files that are looked at, and looked up, at a time: so that nobody waits for long."""
SLICE_S: Final = 5.0
"""For how long files are looked for at a time; a folder that has none by then does answer."""
LOOK_TIMEOUT_S: Final = 60.0
READ_AT_ONCE: Final = 2
"""Files that are read for their hashes: fewer than a folder has threads, so that it can be looked at."""
NOT_MOUNTED: Final = "The disk that was mounted there is away; what is known of the files on it is kept."
MOUNTED: Final = "It is no place of a disk that is away any more."
REMEMBERED_PARTIALS: Final = 1000


class WatchFolder:
    """A folder that is watched. `run` looks at it; whoever works takes from `pending`."""

    def __init__(
        self,
        preset: WatchPreset,
        store: WatchStore,
        settings: Callable[[], WatchSettings],
        others: Callable[[WatchFolder], list[WatchFolder]],
        on_moved: Callable[[WatchFolder, FileRow, Seen], Awaitable[None]],
        on_gone: Callable[[FileRow], Awaitable[None]],
        tell: Callable[[], None],
    ) -> None:
        """`others` are all that are watched but this one; `on_moved` notes that a file has another name now,
        `on_gone` that it is not there, and while it is worked on, that it still is not; `tell` is called when
        there is something to do, or what is watched has to change."""
        self.preset = preset
        self.pending = Pending(settings().settle_s)
        self.reading = anyio.Semaphore(READ_AT_ONCE)
        """Held by who reads a file of it from beginning to end."""
        self.root: str | None = None
        """What tells the folder from another one of its name; None while it is not there."""
        self.places: Mapping[str, Place] = {}
        """By their paths: where it is, and where its recordings are moved to, as that was found last."""
        self.unmounted: dict[str, str] = {}
        """The inodes of folders in it where a disk was that is not mounted; "" is the folder itself."""
        self.is_polled = False
        self.is_scanning = False
        self.held = Hold(settings)
        self.problem: WhisperdError | None = None
        """Why nothing is done just now."""
        self._store = store
        self._settings = settings
        self._others = others
        self._on_moved = on_moved
        self._on_gone = on_gone
        self._tell = tell
        self._hints: dict[str, bool] = {}
        self._partials: dict[str, None] = {}
        """The inodes of files that had the name of something unfinished."""
        self._failure: WhisperdError | None = None
        """Why it could not be looked at the last time, for a reason that is not its own."""
        self._wake = anyio.Event()
        self._wants_scan = True
        self._scanned = anyio.Event()
        self._next_scan_s = 0.0
        self._is_there: bool | None = None
        """As it was found the last time; None before it was looked for."""

    @property
    def selection(self) -> Selection:
        """What of it is to be transcribed."""
        preset = self.preset
        others = [folder.place_of(folder.preset.path) for folder in self._others(self)]
        if preset.move_to is not None:
            others.append(self.place_of(preset.move_to))
        names, inodes = left_alone(self.place_of(preset.path), others)
        return Selection(preset.recursive, preset.include, preset.exclude, names, inodes)

    def place_of(self, path: str) -> Place:
        """Where a folder is, as far as that is known: nobody is to wait for a disk that is not his own."""
        return self.places.get(path) or Place(path, path)

    @property
    def real(self) -> str:
        """Its path without links."""
        return self.place_of(self.preset.path).real

    def wants(self, path: str) -> bool:
        """Whether a file of it is to be transcribed, as the watch is now."""
        return self.selection.takes(path)

    @property
    def landmarks(self) -> dict[str, str | None]:
        """Folders, and their inodes: where one has another, a folder or a disk has come or gone."""
        places = {self.full(place): inode for place, inode in self.unmounted.items() if place}
        return {self.preset.path: self.root, **places}

    def full(self, path: str) -> str:
        """The whole path of a file in it."""
        return os.path.join(self.preset.path, path)

    def change(self, preset: WatchPreset) -> None:
        """Something else is to be done with it: what is still wanted is found again."""
        self.preset = preset
        self.pending.clear()
        self.request_scan()

    def hint(self, changes: Mapping[str, bool]) -> None:
        """Something may have changed at these whole paths."""
        for path, is_new in changes.items():
            self._hints[path] = self._hints.get(path, True) and is_new
        self._wake.set()

    def request_scan(self) -> anyio.Event:
        """Look at everything; the event is set when that is done, which begins after this."""
        self._wants_scan = True
        self._wake.set()
        return self._scanned

    def retry_in(self, path: str, delay_s: float) -> None:
        """Look at a file again later."""
        self.pending.retry(path, anyio.current_time() + delay_s)
        self._wake.set()

    def hold(self, problem: WhisperdError) -> bool:
        """Take nothing for a while, for it would fail; False if that is so already."""
        if has_begun := self.held.begin():
            self.problem = problem.copy()
        return has_begun

    @property
    def closed_for_s(self) -> float:
        """For how long nothing is to be taken; after a failure, one file is tried first."""
        if self.preset.paused or (self.held.count and self.pending.in_hand):
            return float("inf")
        return max(self.quiet_for_s, self.held.for_s)

    @property
    def quiet_for_s(self) -> float:
        """For how long its quiet hours still last; 0 if it is not quiet now."""
        return 0.0 if self.preset.quiet_hours is None else quiet_now_for_s(self.preset.quiet_hours)

    def went_well(self, path: str | None = None) -> None:
        """Something was done: a file, where it is named."""
        if path is not None:
            place = os.path.join(self.preset.output_dir or self.preset.path, os.path.dirname(path))
            self.held.not_writable.discard(place)
        self.problem = None
        self.held.end()

    def postpone(self, seen: Seen) -> None:
        """A file is being written to after all."""
        self.pending.postpone(seen, anyio.current_time())
        self._wake.set()

    def release(self, path: str) -> None:
        """The work on a file has ended."""
        if self.pending.release(path):
            self.hint({self.full(path): False})

    async def has_texts(self, row: FileRow) -> bool:
        """Whether there is something in all the places where texts of a file were written."""
        paths = [output.path for output in await self._store.outputs.of(row.id)]
        return await self._in_thread(lambda: all(os.path.lexists(path) for path in paths))

    async def is_away(self, row: FileRow) -> bool:
        """Whether a file is on a disk that is not there, or does not answer."""
        path, look = self.preset.path, partial(missing_of, self.preset.path, self.selection, [row])
        try:
            return await self._in_thread(lambda: scanner.folder_inode(path) is None or bool(look().unmounted))
        except TimeoutError:
            return True

    async def run(self) -> None:
        """Look at the folder whenever that is due, until cancelled. What goes wrong is tried again later."""
        while True:
            with anyio.move_on_after(self._idle_for_s()):
                await self._wake.wait()
            self._wake = anyio.Event()
            await self._look_well()

    def end(self) -> None:
        """It is not looked at any more: nobody is left waiting for what will not be."""
        self._scanned.set()

    async def _look_well(self) -> None:
        try:
            await self._look()
        except Exception as error:
            self.problem = self._failure = told(self.preset.id, error)
            log.warning("watch %s: %s (%s)", self.preset.id, self.problem.message, self.problem.code)
            await anyio.sleep(self._settings().retry_delay_s)
            self.request_scan()
        else:
            if self.problem is self._failure:
                self.problem = None

    async def _look(self) -> None:
        self.pending.settling.settle_s = self._settings().settle_s
        try:
            if self._wants_scan or anyio.current_time() >= self._next_scan_s:
                await self._scan()
            if self._hints and self.root is not None:
                hints, self._hints = self._hints, {}
                await self._look_at_hints(hints)
            await self._look_again()
        except TimeoutError:
            log.warning("watch %s: the folder does not answer", self.preset.id)
            self.poll()
            await self._absent("The folder does not answer.")

    def _idle_for_s(self) -> float:
        if self._wants_scan or (self._hints and self.root is not None):
            return 0.0
        return max(0.0, min(self._next_scan_s, self.pending.next_look_s()) - anyio.current_time())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await run_abandonable(self.full("."), work, LOOK_TIMEOUT_S)

    async def _scan(self) -> None:
        """Look at everything, and at what is known and may not be there any more."""
        self._wants_scan, self.is_scanning = False, True
        scanned, self._scanned = self._scanned, anyio.Event()
        try:
            await self._scan_all()
        finally:
            self.is_scanning = False
            scanned.set()
            settings = self._settings()
            interval_s = settings.poll_interval_s if self.is_polled else settings.scan_interval_s
            self._next_scan_s = anyio.current_time() + interval_s

    async def _scan_all(self) -> None:
        path = self.preset.path
        paths = [path] if self.preset.move_to is None else [path, self.preset.move_to]
        self.places = await self._in_thread(lambda: {one: scanner.place_of(one) for one in paths})
        if (root := self.places[path].inode) is None:
            await self._absent("The folder is not there, or cannot be read.")
            return
        is_same = root == self.root and "" not in self.unmounted
        await self._present(root)
        await self._walk(self.selection)
        await self._drop_missing()
        await self._note_gone(root, is_same=is_same)

    async def _walk(self, selection: Selection, start: str = "") -> None:
        walk = scanner.walk(self.preset.path, selection, start, remove_leftover)
        while found := await self._in_thread(lambda: scanner.next_of(walk, SLICE, SLICE_S)):
            if files := [seen for seen in found if seen is not None]:
                await self._sift(files)

    async def _present(self, root: str) -> None:
        is_back = self._is_there is False
        if root == self.root and not is_back:
            return
        file_system = await self._in_thread(lambda: file_system_of(self.preset.path))
        self._set_polled(is_silent(file_system))
        self.root, self._is_there = root, True
        if is_back:
            log.info("watch %s: its folder is there again", self.preset.id)
            self.problem = None
        self._tell()  # before the log is asked, which may fail: nobody comes here again for this root
        if is_back:
            await self._store.log.add(self.preset.id, LogLine("back", None, "The folder is there again."))

    async def _absent(self, message: str) -> None:
        """The folder is not there: nothing is said of the files in it."""
        was_absent = self._is_there is False
        self.root, self._is_there = None, False
        self.pending.queue.clear()
        self._hints.clear()
        fix = "Plug its disk in, mount it or make the folder again; it is looked for now and then."
        self.problem = absent(self.preset.path, message, fix)
        if not was_absent:
            log.info("watch %s: its folder is not there", self.preset.id)
            await self._store.log.add(self.preset.id, LogLine("absent", None, message))
        self._tell()

    def poll(self) -> None:
        """The system does not tell of changes here: look now and then."""
        self._set_polled(True)
        self._next_scan_s = min(self._next_scan_s, anyio.current_time() + self._settings().poll_interval_s)
        self._wake.set()

    def _set_polled(self, is_polled: bool) -> None:
        self.is_polled = is_polled
        self.pending.settling.trusts_times = not is_polled

    async def _drop_missing(self) -> None:
        """Of what waits for its turn, let go what is not there: perhaps nobody has told of that."""
        for part in _slices(list(self.pending.queue)):
            await self._still_there(part)

    async def _note_gone(self, root: str, *, is_same: bool) -> None:
        # Those at work that were gone when this scan began, and by it were not found by any name.
        at_work = await self._store.files.with_status(self.preset.id, ("working",))
        await self._forget_missing([row for row in at_work if row.gone], root, is_same=is_same)
        last, unmounted = "", dict[str, str]()
        while rows := await self._store.files.present(self.preset.id, last, SLICE):
            last = rows[-1].path
            unmounted |= await self._forget_missing(rows, root, is_same=is_same)
        before, self.unmounted = self.unmounted, unmounted
        lines = [LogLine("absent", place or None, NOT_MOUNTED) for place in unmounted if place not in before]
        lines += [LogLine("back", place or None, MOUNTED) for place in before if place not in unmounted]
        if lines:
            await self._store.log.add(self.preset.id, *lines)

    async def _forget_missing(
        self, rows: Sequence[FileRow], root: str, *, is_same: bool = True
    ) -> dict[str, str]:
        """Of these files, note those that are gone, if the folder still is there; the others' `unmounted`."""
        path = self.preset.path
        look = partial(missing_of, path, self.selection, rows, is_same=is_same)
        gone, unmounted = await self._in_thread(look)
        if not (gone or unmounted) or await self._in_thread(lambda: scanner.folder_inode(path)) != root:
            return {}
        for row in gone:
            self.pending.drop(row.path)
            await self._on_gone(row)
        await self._store.files.mark_gone([row.id for row in gone])
        return unmounted

    async def _look_at_hints(self, hints: Mapping[str, bool]) -> None:
        selection, root, gone = self.selection, self.root, list[str]()
        assert root is not None
        for part in _slices(hints.items()):
            files, folders, missing = await self._in_thread(
                partial(scanner.sort_out, self.preset.path, selection, part, self._note_partial)
            )
            await self._sift([seen for seen, _ in files], {seen.path for seen, is_new in files if is_new})
            for folder in folders:
                await self._walk(selection, folder)
            gone += missing
        for path in gone:  # at last: what was renamed has been seen by then
            if not path:
                self.request_scan()
                continue
            self.pending.drop(path)
            if rows := await self._store.files.below(self.preset.id, path):
                await self._forget_missing(rows, root)

    def _note_partial(self, inode: str) -> None:
        self._partials[inode] = None
        while len(self._partials) > REMEMBERED_PARTIALS:
            del self._partials[next(iter(self._partials))]

    async def _look_again(self) -> None:
        for part in _slices(self.pending.due(anyio.current_time())):
            await self._sift(await self._still_there(part))

    async def _still_there(self, paths: Sequence[str]) -> list[Seen]:
        """Those files that are there; for the others nothing is to be done any more."""
        found = await self._in_thread(partial(scanner.look_at_all, self.preset.path, paths))
        for path, seen in found:
            if seen is None:
                self.pending.drop(path)
        return [seen for _, seen in found if seen is not None]

    async def _sift(self, found: Sequence[Seen], new: Iterable[str] = ()) -> None:
        """Tell what is known from what is to be done; `new` are those that may have been renamed in."""
        if self.preset.include:  # else only what is audio or video by its name is wanted, and no text is
            found = await self._store.outputs.absent_from(self.preset.path, found)
        looked_up = await self._store.files.look_up(self.preset.id, found)
        others = [other for _, known, others in looked_up if known is None for other in others]
        there: dict[int, bool] = {}
        if others:
            there = await self._in_thread(
                lambda: {
                    row.id: scanner.leads_to(self.preset.path, row.path, row.identity.inode) for row in others
                }
            )
        latest = rfc3339_ago(-max(self._settings().retry_delay_s, LONGEST_DELAY_S))
        is_due, new = partial(wants_work, now=now_rfc3339(), latest=latest), set(new)
        for seen, known, elsewhere in looked_up:
            recognition = recognise(seen, known, elsewhere, lambda row: there[row.id])
            match recognition.verdict:
                case "same":
                    assert known is not None
                    await self._same(known, seen, is_due)
                case "moved":
                    assert recognition.row is not None
                    await self._moved(recognition.row, seen, is_due)
                case "unknown":
                    moved_in = seen.path in new or seen.identity.inode in self._partials
                    now_s, wall_ns = anyio.current_time(), time.time_ns()
                    self.pending.observe(seen, now_s, wall_ns, moved_in=moved_in)
        self._tell()

    async def _same(self, row: FileRow, seen: Seen, is_due: Callable[[FileRow], bool]) -> None:
        self.pending.settling.forget(seen.path)
        if row.gone is not None:
            # It has come back. What failed begins anew, and so does who has deleted its texts as well.
            if row.status == "failed" or (row.status == "done" and not await self.has_texts(row)):
                row = msgspec.structs.replace(row, status="lost")
            await self._store.files.update(row.id, gone=None, status=row.status)
        self._do_when_due(row, seen, is_due)

    async def _moved(self, row: FileRow, seen: Seen, is_due: Callable[[FileRow], bool]) -> None:
        if self.pending.puts_off(seen.path):
            return
        self.pending.drop(row.path)
        self.pending.settling.forget(seen.path)
        await self._on_moved(self, row, seen)
        self._do_when_due(row, seen, is_due)

    def _do_when_due(self, row: FileRow, seen: Seen, is_due: Callable[[FileRow], bool]) -> None:
        if is_due(row):
            self.pending.enqueue(seen, anyio.current_time())
        elif row.status == "retrying" and row.retry_at is not None and not self.pending.has_retry(seen.path):
            self.retry_in(seen.path, seconds_until(row.retry_at))


def _slices(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, SLICE)):
        yield part
