"""The state of one watched folder, shared by the modules that work on it; `discovery` scans it."""

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
from whisperd.watch.absence import find_missing
from whisperd.watch.backoff import Backoff
from whisperd.watch.desktop import Desktop
from whisperd.watch.ledger import FileRow, Seen
from whisperd.watch.names import Place, Selection, skipped_folders
from whisperd.watch.pending import Pending
from whisperd.watch.preset import WatchPreset
from whisperd.watch.quiet import quiet_now_for_s

__all__ = ["LOOK_TIMEOUT_S", "WatchFolder"]

T = TypeVar("T")

LOOK_TIMEOUT_S: Final = 60.0
READ_AT_ONCE: Final = 2
"""The most files hashed at once: fewer than a folder's threads, so that it can still be scanned."""


class WatchFolder:
    """A watched folder. Workers take files from `pending`."""

    def __init__(
        self,
        preset: WatchPreset,
        settings: Callable[[], WatchSettings],
        folders: Collection[WatchFolder],
    ) -> None:
        """`folders` are all watched folders."""
        self.preset = preset
        self.pending = Pending(settings().settle_s)
        self.reading = anyio.Semaphore(READ_AT_ONCE)
        """Held while a file of the folder is read from beginning to end."""
        self.desktop = Desktop()
        self.scope = anyio.CancelScope()
        self.tasks: TaskGroup | None = None
        """The folder's running tasks; set while it runs."""
        self.root: str | None = None
        """The inode of the folder; None while it is absent."""
        self.places: Mapping[str, Place] = {}
        """The folder and its `move_to`, by path, as last resolved."""
        self.unmounted: dict[str, str] = {}
        """The inodes of the mount points in it whose disk is not mounted; "" is the folder itself."""
        self.is_silent = False
        """Its file system reports no changes, or does not respond."""
        self.is_refused = False
        """The system did not report its changes when last asked to, perhaps because a limit was reached."""
        self.is_scanning = False
        self.backoff = Backoff(settings)
        self.problem: WhisperdError | None = None
        """Why the last scan failed."""
        self.hints: dict[str, bool] = {}
        """Full paths that may have changed, and whether the only change is that they were created."""
        self.wake = anyio.Event()
        self.next_scan_s = 0.0
        """When the next full scan is due."""
        self.scanned = anyio.Event()
        """Set when the next full scan has finished."""
        self._settings = settings
        self._folders = folders

    @property
    def selection(self) -> Selection:
        """Which of its files to transcribe."""
        preset = self.preset
        others = [one.place_of(one.preset.path) for one in self._folders if one is not self]
        if preset.move_to is not None:
            others.append(self.place_of(preset.move_to))
        names, inodes = skipped_folders(self.place_of(preset.path), others)
        return Selection(preset.recursive, preset.include, preset.exclude, names, inodes)

    def place_of(self, path: str) -> Place:
        """Return where a folder is, as last resolved: accessing another watch's disk could hang."""
        return self.places.get(path) or Place(path, path)

    @property
    def real(self) -> str:
        """Its path with symbolic links resolved."""
        return self.place_of(self.preset.path).real

    def wants(self, path: str) -> bool:
        """Whether a file of it is to be transcribed under the current settings."""
        return self.selection.takes(path)

    @property
    def is_polled(self) -> bool:
        """Whether it is scanned at short intervals, because nothing reports its changes."""
        return self.is_silent or self.is_refused

    @property
    def landmarks(self) -> dict[str, str | None]:
        """Folders and their inodes, which change when a folder or disk appears, vanishes or is replaced."""
        places = {self.full(place): inode for place, inode in self.unmounted.items() if place}
        return {self.preset.path: self.root, **places}

    def full(self, path: str) -> str:
        """Return the full path of a file in it."""
        return os.path.join(self.preset.path, path)

    def change(self, preset: WatchPreset) -> None:
        """Apply changed settings; a scan finds again what is still wanted."""
        self.preset = preset
        self.pending.clear()
        self.request_scan()

    def hint(self, changes: Mapping[str, bool]) -> None:
        """Note full paths at which something may have changed."""
        for path, is_new in changes.items():
            self.hints[path] = self.hints.get(path, True) and is_new
        self.wake.set()

    def recheck(self, *paths: str) -> None:
        """Note paths within the folder at which something may have changed."""
        self.hint({self.full(path): False for path in paths})

    def request_scan(self) -> anyio.Event:
        """Request a full scan that begins after this call; return the event that marks its end."""
        self.scan_by(0.0)
        return self.scanned

    def scan_by(self, moment_s: float) -> None:
        """Scan the whole folder at this moment or earlier."""
        self.next_scan_s = min(self.next_scan_s, moment_s)
        self.wake.set()

    def poll(self) -> None:
        """Scan soon, and at short intervals from then on."""
        self.scan_by(anyio.current_time() + self._settings().poll_interval_s)

    def retry_in(self, path: str, delay_s: float) -> None:
        """Check a file again later."""
        self.pending.retry(path, anyio.current_time() + delay_s)
        self.wake.set()

    @property
    def blocked_for_s(self) -> float:
        """How long no file may be taken. After an environment failure, one file at a time is tried first."""
        if self.preset.paused or (self.backoff.count and self.pending.in_progress):
            return float("inf")
        return max(self.quiet_for_s, self.backoff.for_s)

    @property
    def quiet_for_s(self) -> float:
        """How long the quiet hours still last; 0 outside of them."""
        return 0.0 if self.preset.quiet_hours is None else quiet_now_for_s(self.preset.quiet_hours)

    def note_success(self, path: str | None = None) -> None:
        """Note a success: end the backoff, and that of the output folder of the file, if one is named."""
        if path is not None:
            place = os.path.join(self.preset.output_dir or self.preset.path, os.path.dirname(path))
            self.backoff.not_writable.discard(place)
        self.backoff.end()

    def postpone(self, seen: Seen) -> None:
        """Let a file settle again that is still being written to."""
        self.pending.postpone(seen, anyio.current_time())
        self.wake.set()

    def release(self, path: str) -> None:
        """Note that the work on a file has ended."""
        if self.pending.release(path):
            self.recheck(path)

    async def in_thread(self, look: Callable[[], T]) -> T:
        """Run a blocking check of the folder in a thread. Raises `TimeoutError` if it does not respond."""
        return await run_abandonable(self.full("."), look, LOOK_TIMEOUT_S)

    async def is_there(self, row: FileRow) -> bool:
        """Whether a file exists where it was; False on a disk that does not respond."""
        try:
            return await self.in_thread(partial(os.path.lexists, self.full(row.path)))
        except TimeoutError:
            return False

    async def is_away(self, row: FileRow) -> bool:
        """Whether a file is on a disk that is unmounted or does not respond."""
        path, look = self.preset.path, partial(find_missing, self.preset.path, self.selection, [row])
        try:
            return await self.in_thread(lambda: scanner.folder_inode(path) is None or bool(look().unmounted))
        except TimeoutError:
            return True
