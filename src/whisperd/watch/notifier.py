"""Notifications of the kernel about changes in folders. They are hints; only a look at the disk is reliable.

All folders share one listening process (`whisperd.folder_changes`), or two: one for recursive watches and one
for the others. The listener cannot tell when the kernel's queue has overflowed, which is inferred from a
flood of changes, and it loses its events when a name is not UTF-8. A flood, such a name and any failure
trigger a full scan.
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from whisperd.child import how_it_ended, open_child, python_command
from whisperd.decodable import decodable
from whisperd.folder_changes import ADDED, FLOOD
from whisperd.tasks import open_task_group

if TYPE_CHECKING:
    from anyio.abc import Process

__all__ = ["Notifier"]

log = logging.getLogger(__name__)
GATHER_S: Final = 0.2
"""Folders that are added in quick succession restart the listener only once."""
RESTART_DELAYS_S: Final = (1.0, 5.0, 30.0, 300.0)
LONGEST_AFTER_EXIT: Final = 2
"""The index of the longest delay after an exit: an occasional crash is no reason to miss changes for
longer."""
MAX_LINE_BYTES: Final = 256 << 20
"""A flood of the longest possible paths, with each byte escaped."""

T = TypeVar("T")
Batch = list[tuple[int, str]]
"""Changed paths, each with the kind of change."""
Changes = Mapping[str, bool]
"""By path: whether it was only created and not written to since."""


class _Refused(Exception):
    """The system does not report changes in a folder; the message says why."""


class _Ended(Exception):
    """The listening process has exited; the message says how."""


class Notifier:
    """Reports changes in folders."""

    def __init__(
        self,
        on_changes: Callable[[Changes], None],
        on_lost: Callable[[str], None],
        on_refused: Callable[[str], None],
    ) -> None:
        """`on_lost` is called for a folder in which changes may have been missed, `on_refused` for one that
        cannot be watched by notifications."""
        self._on_changes = on_changes
        self._on_lost = on_lost
        self._on_refused = on_refused
        self.folders: Mapping[str, bool] = {}
        """The watched folders, and whether each is watched recursively."""
        self._changed = anyio.Event()

    def watch(self, folders: Mapping[str, bool]) -> None:
        """Watch these folders from now on, recursively where the value is true."""
        if folders != self.folders:
            self.folders = folders
            self.renew()

    def renew(self) -> None:
        """Restart the listener with the same folders, after one of them was recreated."""
        self._changed.set()

    async def run(self) -> None:
        """Report changes until cancelled."""
        while True:
            self._changed = changed = anyio.Event()
            async with open_task_group() as tasks:
                for recursive in (True, False):
                    folders = [path for path, below in self.folders.items() if below is recursive]
                    if folders:
                        tasks.start_soon(self._watch, folders, recursive)
                await changed.wait()
                await anyio.sleep(GATHER_S)
                tasks.cancel_scope.cancel()

    async def _watch(self, folders: list[str], recursive: bool) -> None:
        failures = 0
        while folders:
            began_s = anyio.current_time()
            try:
                await self._forward_changes(folders, recursive)
            except _Refused as error:
                log.warning("watch folders: the system does not report changes (%s)", error)
                folders = await self._watchable(folders, recursive)
            except (_Ended, OSError) as error:
                log.warning("watch folders: the listening process ended (%s)", error)
                failures = min(failures, LONGEST_AFTER_EXIT)
            if not folders:
                return
            if anyio.current_time() - began_s > RESTART_DELAYS_S[-1]:
                failures = 0
            await anyio.sleep(RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)])
            failures += 1

    async def _forward_changes(self, folders: Sequence[str], recursive: bool) -> None:
        async with _listen(folders, recursive) as next_batch:
            self._report_lost(folders)  # a scan finds what changed before it listened
            while True:
                self._forward(await next_batch(), folders)

    def _forward(self, batch: Batch, folders: Iterable[str]) -> None:
        if not batch or len(batch) >= FLOOD:
            self._report_lost(folders)
            return
        changes: dict[str, bool] = {}
        for change, path in batch:
            changes[path] = changes.get(path, True) and change == ADDED
        self._on_changes(changes)

    def _report_lost(self, folders: Iterable[str]) -> None:
        for folder in folders:
            self._on_lost(folder)

    async def _watchable(self, folders: list[str], recursive: bool) -> list[str]:
        """Return the folders that can be watched together: there may be room for each, but not for all."""
        watchable: list[str] = []
        for folder in folders:
            if await _can_be_watched([*watchable, folder], recursive):
                watchable.append(folder)
            else:
                self._on_refused(folder)
        return watchable


@asynccontextmanager
async def _listen(folders: Sequence[str], recursive: bool) -> AsyncIterator[Callable[[], Awaitable[Batch]]]:
    """Listen to changes in folders from the entry of the block; the value waits for the next batch.

    Raises `_Refused`, `_Ended`, and `OSError` if no further process can be started.
    """
    command = python_command("whisperd.folder_changes")
    orders = json.dumps({"folders": folders, "is_recursive": recursive})  # msgspec writes no surrogates
    async with open_child(command, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        lines = BufferedByteReceiveStream(child.stdout)
        with suppress(anyio.BrokenResourceError):  # it has exited; the missing answer is handled below
            await child.stdin.send(orders.encode() + b"\n")
        if reason := await _read(lines, child, str):
            raise _Refused(reason)
        yield lambda: _read(lines, child, Batch)


async def _read(lines: BufferedByteReceiveStream, child: Process, document: type[T]) -> T:
    try:
        line = await lines.receive_until(b"\n", MAX_LINE_BYTES)
    except anyio.IncompleteRead:
        raise _Ended(how_it_ended(await child.wait())) from None
    return msgspec.json.decode(line, type=decodable(document))


async def _can_be_watched(folders: Sequence[str], recursive: bool) -> bool:
    try:
        async with _listen(folders, recursive):
            return True
    except (_Refused, _Ended, OSError):
        return False
