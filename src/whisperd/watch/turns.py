"""Turns: the watches are worked through one file each, so that a folder of ten thousand holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from whisperd.watch.desktop import Desktop
from whisperd.watch.folder import WatchFolder
from whisperd.watch.ledger import FileRow, Seen
from whisperd.watch.work import FileWork

__all__ = ["Turns", "Watched"]

FILES_AT_ONCE: Final = 12
"""Files that are worked on at the same time: enough for a job to be ready whenever one ends, and few enough
that ten thousand files are a list of names and not ten thousand jobs."""


class Watched:
    """A folder and its tasks."""

    def __init__(self, folder: WatchFolder) -> None:
        self.folder = folder
        self.scope = anyio.CancelScope()
        self.tasks: TaskGroup | None = None
        """Set while it runs."""
        self.desktop = Desktop()


class Turns:
    """Takes files from the folders in turn."""

    def __init__(self, work: FileWork, watched: Callable[[], Collection[Watched]]) -> None:
        """`watched` are all that there are."""
        self._work = work
        self._watched = watched
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
            while not self._is_stopping and (watched := self._next()) is not None:
                pending = watched.folder.pending
                seen = pending.queue.pop(next(iter(pending.queue)))
                if watched.folder.wants(seen.path):
                    self.begin(watched, seen)
                else:  # the watch was changed after it had been seen
                    pending.drop(seen.path)
            with anyio.move_on_after(self._closed_for_s()):
                await wake.wait()

    def begin(self, watched: Watched, what: Seen | FileRow) -> None:
        """Work on a file: one that was seen, or one of the ledger that a daemon was at work on."""
        assert watched.tasks is not None
        self._at_work += 1
        watched.folder.pending.in_hand.add(what.path)
        watched.tasks.start_soon(self._do, watched.folder, what)

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

    def _next(self) -> Watched | None:
        """The next folder whose turn it is."""
        order = list(self._watched())
        for place in range(len(order)):
            watched = order[(self._turn + place) % len(order)]
            folder = watched.folder
            if folder.pending.queue and self._has_room(folder) and not folder.closed_for_s:
                self._turn = (self._turn + place + 1) % len(order)
                return watched
        return None

    def _has_room(self, folder: WatchFolder) -> bool:
        """Whether a file of a folder may be worked on: one at least, however long those of others take."""
        return self._at_work < FILES_AT_ONCE or not folder.pending.in_hand

    def _closed_for_s(self) -> float | None:
        """How long until the next folder opens again; None if none does by itself."""
        times = [one.folder.closed_for_s for one in self._watched() if one.folder.pending.queue]
        return min((time for time in times if 0 < time < float("inf")), default=None)
