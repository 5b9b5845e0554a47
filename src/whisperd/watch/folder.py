"""One watched folder: what is known of it, and what waits there. Others ask it, and tell it what has changed;
`lookout` looks into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, TypeVar

import anyio
from anyio.abc import TaskGroup

from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.absence import missing_of
from whisperd.watch.desktop import Desktop
from whisperd.watch.hold import Hold
from whisperd.watch.ledger import FileRow, Seen
from whisperd.watch.names import Place, Selection, left_alone
from whisperd.watch.pending import Pending
from whisperd.watch.preset import WatchPreset
from whisperd.watch.quiet import quiet_now_for_s

__all__ = ["LOOK_TIMEOUT_S", "WatchFolder"]

T = TypeVar("T")

LOOK_TIMEOUT_S: Final = 60.0
READ_AT_ONCE: Final = 2
"""Files that are read for their hashes: fewer than a folder has threads, so that it can be looked at."""


class WatchFolder:
    """A folder that is watched. Whoever works takes from `pending`."""

    def __init__(
        self,
        preset: WatchPreset,
        settings: Callable[[], WatchSettings],
        folders: Collection[WatchFolder],
    ) -> None:
        """`folders` are all that are watched."""
        self.preset = preset
        self.pending = Pending(settings().settle_s)
        self.reading = anyio.Semaphore(READ_AT_ONCE)
        """Held by who reads a file of it from beginning to end."""
        self.desktop = Desktop()
        self.scope = anyio.CancelScope()
        self.tasks: TaskGroup | None = None
        """What is done for it; set while it runs."""
        self.root: str | None = None
        """What tells the folder from another one of its name; None while it is not there."""
        self.places: Mapping[str, Place] = {}
        """By their paths: where it is, and where its recordings are moved to, as that was found last."""
        self.unmounted: dict[str, str] = {}
        """The inodes of folders in it where a disk was that is not mounted; "" is the folder itself."""
        self.is_polled = False
        """The system does not tell of changes: it is looked at now and then."""
        self.is_scanning = False
        self.held = Hold(settings)
        self.problem: WhisperdError | None = None
        """Why it could not be looked at the last time."""
        self.hints: dict[str, bool] = {}
        """Whole paths at which something may have changed, and whether it has only come into being."""
        self.wake = anyio.Event()
        self.next_scan_s = 0.0
        """When everything is to be looked at."""
        self.scanned = anyio.Event()
        """Set when all has been looked at that is there now."""
        self._settings = settings
        self._folders = folders

    @property
    def selection(self) -> Selection:
        """What of it is to be transcribed."""
        preset = self.preset
        others = [one.place_of(one.preset.path) for one in self._folders if one is not self]
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
            self.hints[path] = self.hints.get(path, True) and is_new
        self.wake.set()

    def look_at(self, *paths: str) -> None:
        """Something may have changed at these paths within it."""
        self.hint({self.full(path): False for path in paths})

    def request_scan(self) -> anyio.Event:
        """Look at everything; the event is set when that is done, which begins after this."""
        self.scan_by(0.0)
        return self.scanned

    def scan_by(self, moment_s: float) -> None:
        """Look at everything then, or earlier."""
        self.next_scan_s = min(self.next_scan_s, moment_s)
        self.wake.set()

    def poll(self) -> None:
        """The system does not tell of changes here: look now and then."""
        self.is_polled = True
        self.scan_by(anyio.current_time() + self._settings().poll_interval_s)

    def retry_in(self, path: str, delay_s: float) -> None:
        """Look at a file again later."""
        self.pending.retry(path, anyio.current_time() + delay_s)
        self.wake.set()

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
        self.held.end()

    def postpone(self, seen: Seen) -> None:
        """A file is being written to after all."""
        self.pending.postpone(seen, anyio.current_time())
        self.wake.set()

    def release(self, path: str) -> None:
        """The work on a file has ended."""
        if self.pending.release(path):
            self.look_at(path)

    async def in_thread(self, look: Callable[[], T]) -> T:
        """Look at something in it. Raises `TimeoutError` if it does not answer."""
        return await run_abandonable(self.full("."), look, LOOK_TIMEOUT_S)

    async def is_there(self, row: FileRow) -> bool:
        """Whether a file is where it was; one on a disk that does not answer is not."""
        try:
            return await self.in_thread(partial(os.path.lexists, self.full(row.path)))
        except TimeoutError:
            return False

    async def is_away(self, row: FileRow) -> bool:
        """Whether a file is on a disk that is not there, or does not answer."""
        path, look = self.preset.path, partial(missing_of, self.preset.path, self.selection, [row])
        try:
            return await self.in_thread(lambda: scanner.folder_inode(path) is None or bool(look().unmounted))
        except TimeoutError:
            return True
