"""The kernel's notifications. They are hints: what is true, a look at the disk says.

All folders share one process that listens (`whisperd.folder_changes`), or two: one for those with what is
below them and one for those without. It does not tell when the kernel's queue has run over, which is guessed
from a flood of changes, and has lost what it had heard when it hears a name that is not UTF-8. A flood, such
a name and any failure have everything looked at.
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
from whisperd.folder_changes import ADDED, FLOOD
from whisperd.tasks import open_task_group

if TYPE_CHECKING:
    from anyio.abc import Process

__all__ = ["Notifier"]

log = logging.getLogger(__name__)
GATHER_S: Final = 0.2
"""Where folders come one after the other, it begins anew once for all of them."""
RESTART_DELAYS_S: Final = (1.0, 5.0, 30.0, 300.0)
LONGEST_AFTER_AN_END: Final = 2
"""Its place there: what ends now and then is no reason to be deaf for longer."""
MAX_LINE_BYTES: Final = 256 << 20
"""A flood of the longest paths there are, each byte escaped."""

T = TypeVar("T")
Batch = list[tuple[int, str]]
"""What has changed, and how."""
Changes = Mapping[str, bool]
"""By path: whether it has only come into being, and not been written to since."""


class _Refused(Exception):
    """The system does not tell of changes in a folder: why."""


class _Ended(Exception):
    """The process that listens has ended: how."""


class Notifier:
    """Tells of changes in folders."""

    def __init__(
        self,
        on_changes: Callable[[Changes], None],
        on_lost: Callable[[str], None],
        on_refused: Callable[[str], None],
    ) -> None:
        """`on_lost` is told of a folder in which changes may have been missed, `on_refused` of one that
        cannot be watched so."""
        self._on_changes = on_changes
        self._on_lost = on_lost
        self._on_refused = on_refused
        self.folders: Mapping[str, bool] = {}
        """Those that are watched, and whether what is below them is."""
        self._changed = anyio.Event()

    def watch(self, folders: Mapping[str, bool]) -> None:
        """Watch these folders from now on, and where that is said what is below them."""
        if folders != self.folders:
            self.folders = folders
            self.renew()

    def renew(self) -> None:
        """Begin anew with the same folders: one of them was made anew."""
        self._changed.set()

    async def run(self) -> None:
        """Tell of changes until cancelled."""
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
                await self._tell_of_changes(folders, recursive)
            except _Refused as error:
                log.warning("watch folders: the system does not tell of changes (%s)", error)
                folders = await self._sound_ones(folders, recursive)
            except (_Ended, OSError) as error:
                log.warning("watch folders: the process that listens has ended (%s)", error)
                failures = min(failures, LONGEST_AFTER_AN_END)
            if not folders:
                return
            if anyio.current_time() - began_s > RESTART_DELAYS_S[-1]:
                failures = 0
            await anyio.sleep(RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)])
            failures += 1

    async def _tell_of_changes(self, folders: Sequence[str], recursive: bool) -> None:
        async with _listen(folders, recursive) as next_batch:
            self._all_lost(folders)  # what happened before it listened is found by looking
            while True:
                self._tell(await next_batch(), folders)

    def _tell(self, batch: Batch, folders: Iterable[str]) -> None:
        if not batch or len(batch) >= FLOOD:
            self._all_lost(folders)
            return
        changes: dict[str, bool] = {}
        for change, path in batch:
            changes[path] = changes.get(path, True) and change == ADDED
        self._on_changes(changes)

    def _all_lost(self, folders: Iterable[str]) -> None:
        for folder in folders:
            self._on_lost(folder)

    async def _sound_ones(self, folders: list[str], recursive: bool) -> list[str]:
        """Those folders that can be watched together: there may be room for each, and not for all."""
        sound: list[str] = []
        for folder in folders:
            if await _can_be_watched([*sound, folder], recursive):
                sound.append(folder)
            else:
                self._on_refused(folder)
        return sound


@asynccontextmanager
async def _listen(folders: Sequence[str], recursive: bool) -> AsyncIterator[Callable[[], Awaitable[Batch]]]:
    """Hear of what changes in folders from when the block is entered; what it gives waits for the next batch.

    Raises `_Refused`, `_Ended`, and `OSError` where there is no room for one more process.
    """
    command = python_command("whisperd.folder_changes")
    orders = json.dumps({"folders": folders, "is_recursive": recursive})  # msgspec writes no surrogates
    async with open_child(command, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        lines = BufferedByteReceiveStream(child.stdout)
        with suppress(anyio.BrokenResourceError):  # it has ended: what it does not say tells how
            await child.stdin.send(orders.encode() + b"\n")
        if reason := await _read(lines, child, str):
            raise _Refused(reason)
        yield lambda: _read(lines, child, Batch)


async def _read(lines: BufferedByteReceiveStream, child: Process, document: type[T]) -> T:
    try:
        line = await lines.receive_until(b"\n", MAX_LINE_BYTES)
    except anyio.IncompleteRead:
        raise _Ended(how_it_ended(await child.wait())) from None
    return msgspec.json.decode(line, type=document)


async def _can_be_watched(folders: Sequence[str], recursive: bool) -> bool:
    try:
        async with _listen(folders, recursive):
            return True
    except (_Refused, _Ended, OSError):
        return False
