"""Schedule the files of all watches round-robin, so that a folder of ten thousand holds up no other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from whisperd.watch.folder import WatchFolder
from whisperd.watch.ledger import FileRow, Seen
from whisperd.watch.work import FileWork

__all__ = ["Scheduler"]

FILES_AT_ONCE: Final = 12
"""Files in progress at a time: enough that a job is ready whenever one ends, and few enough that ten thousand
files are a list of names and not ten thousand jobs."""


class Scheduler:
    """Takes files from the folders in turn."""

    def __init__(self, work: FileWork, folders: Collection[WatchFolder]) -> None:
        """`folders` are all watched folders."""
        self._work = work
        self._folders = folders
        self._at_work = 0
        self._wake = anyio.Event()
        self._turn = 0
        self._is_stopping = False

    def stop(self) -> None:
        """Start no more files."""
        self._is_stopping = True

    def wake(self) -> None:
        """Check again whether there is work to do."""
        self._wake.set()

    async def run(self) -> None:
        """Start files whenever that is allowed, until cancelled."""
        while True:
            self._wake = wake = anyio.Event()
            # A task started during shutdown is never cancelled if all others in its group have ended by then.
            await checkpoint_if_cancelled()
            while not self._is_stopping and (folder := self._next()) is not None:
                seen = folder.pending.queue.pop(next(iter(folder.pending.queue)))
                if folder.wants(seen.path):
                    self.begin(folder, seen)
                else:  # the watch changed after the file was queued
                    folder.pending.drop(seen.path)
            with anyio.move_on_after(self._blocked_for_s()):
                await wake.wait()

    def begin(self, folder: WatchFolder, what: Seen | FileRow) -> None:
        """Start work on a file: a newly found one, or one of the ledger that was interrupted."""
        assert folder.tasks is not None
        self._at_work += 1
        folder.pending.in_progress[what.path] = False
        folder.tasks.start_soon(self._do, folder, what)

    async def _do(self, folder: WatchFolder, what: Seen | FileRow) -> None:
        try:
            if isinstance(what, Seen):
                await self._work.take(folder, what)
            else:
                await self._work.resume(folder, what)
        finally:
            self._at_work -= 1
            folder.release(what.path)
            self._wake.set()

    def _next(self) -> WatchFolder | None:
        """Return the folder whose turn it is."""
        order = list(self._folders)
        for place in range(len(order)):
            folder = order[(self._turn + place) % len(order)]
            if folder.pending.queue and self._has_room(folder) and not folder.blocked_for_s:
                self._turn = (self._turn + place + 1) % len(order)
                return folder
        return None

    def _has_room(self, folder: WatchFolder) -> bool:
        """Whether to start another file of a folder: at least one always may, however busy the others are."""
        return self._at_work < FILES_AT_ONCE or not folder.pending.in_progress

    def _blocked_for_s(self) -> float | None:
        """Return how long until a folder with queued files opens; None if that depends on something else."""
        times = [folder.blocked_for_s for folder in self._folders if folder.pending.queue]
        return min((time for time in times if 0 < time < float("inf")), default=None)
