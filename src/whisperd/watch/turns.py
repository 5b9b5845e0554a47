"""Turns: the watches are worked through one file each, so that a folder of ten thousand holds up no other."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from whisperd.watch.folder import WatchFolder
from whisperd.watch.ledger import FileRow, Seen
from whisperd.watch.work import FileWork

__all__ = ["Turns"]

FILES_AT_ONCE: Final = 12
"""Files that are worked on at the same time: enough for a job to be ready whenever one ends, and few enough
that ten thousand files are a list of names and not ten thousand jobs."""


class Turns:
    """Takes files from the folders in turn."""

    def __init__(self, work: FileWork, folders: Collection[WatchFolder]) -> None:
        """`folders` are all that are watched."""
        self._work = work
        self._folders = folders
        self._at_work = 0
        self._wake = anyio.Event()
        self._turn = 0
        self._is_stopping = False

    def stop(self) -> None:
        """Begin nothing more."""
        self._is_stopping = True

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    async def run(self) -> None:
        """Begin what may be begun, until cancelled."""
        while True:
            self._wake = wake = anyio.Event()
            # What is begun while all ends is never cancelled, if all else in its group has ended by then.
            await checkpoint_if_cancelled()
            while not self._is_stopping and (folder := self._next()) is not None:
                seen = folder.pending.queue.pop(next(iter(folder.pending.queue)))
                if folder.wants(seen.path):
                    self.begin(folder, seen)
                else:  # the watch was changed after it had been seen
                    folder.pending.drop(seen.path)
            with anyio.move_on_after(self._closed_for_s()):
                await wake.wait()

    def begin(self, folder: WatchFolder, what: Seen | FileRow) -> None:
        """Work on a file: one that was seen, or one of the ledger that a daemon was at work on."""
        assert folder.tasks is not None
        self._at_work += 1
        folder.pending.in_hand[what.path] = False
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
        """The next folder whose turn it is."""
        order = list(self._folders)
        for place in range(len(order)):
            folder = order[(self._turn + place) % len(order)]
            if folder.pending.queue and self._has_room(folder) and not folder.closed_for_s:
                self._turn = (self._turn + place + 1) % len(order)
                return folder
        return None

    def _has_room(self, folder: WatchFolder) -> bool:
        """Whether a file of a folder may be worked on: one at least, however long those of others take."""
        return self._at_work < FILES_AT_ONCE or not folder.pending.in_hand

    def _closed_for_s(self) -> float | None:
        """How long until the next folder opens again; None if none does by itself."""
        times = [folder.closed_for_s for folder in self._folders if folder.pending.queue]
        return min((time for time in times if 0 < time < float("inf")), default=None)
