"""The kernel's notifications, by `watchfiles`. They are hints: what is true, a look at the disk says.

All folders share one watcher in one thread, or two: one for those with what is below them and one for
those without. `watchfiles` does not tell when the kernel's queue has run over, nor which folder it stumbled
over; so a flood of changes, and any failure, has everything looked at.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from whisperd.tasks import open_task_group

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

__all__ = ["Notifier"]

log = logging.getLogger(__name__)
_ADDED: Final = 1
"""`watchfiles.Change.added`."""
STEP_MS: Final = 500
"""How often it is asked whether something has changed, and for how long nothing has to before we are told."""
GATHER_MS: Final = 1600
NO_POLLING_MS: Final = 300
"""The watcher wants to know it, and does not need it."""
FLOOD: Final = 8000
"""So many changes at once are half of what the kernel's queue holds: some may be lost."""
RESTART_DELAYS_S: Final = (1.0, 5.0, 30.0, 300.0)
LONGEST_AFTER_A_NAME: Final = 2
"""Its place there: a name that the watcher cannot tell is no reason to be deaf for longer."""

Changes = Mapping[str, bool]
"""By path: whether it has only come into being, and not been written to since."""


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
        self._wanted: dict[str, bool] = {}
        self._changed = anyio.Event()
        self._threads = anyio.CapacityLimiter(4)
        """Not those that everything else shares: these are always taken."""

    @property
    def folders(self) -> Mapping[str, bool]:
        """Those that are watched."""
        return self._wanted

    def watch(self, folders: Mapping[str, bool]) -> None:
        """Watch these folders from now on, and where that is said what is below them."""
        if dict(folders) != self._wanted:
            self.renew(folders)

    def renew(self, folders: Mapping[str, bool]) -> None:
        """The same, but begin anew also where they are the same: one of them was made anew."""
        self._wanted = dict(folders)
        self._changed.set()

    async def run(self) -> None:
        """Tell of changes until cancelled."""
        while True:
            self._changed = changed = anyio.Event()
            async with open_task_group() as tasks:
                for recursive in (True, False):
                    folders = [path for path, below in self._wanted.items() if below is recursive]
                    if folders:
                        tasks.start_soon(self._watch, folders, recursive)
                await changed.wait()
                tasks.cancel_scope.cancel()

    async def _watch(self, folders: list[str], recursive: bool) -> None:
        failures = 0
        while folders:
            began_s = anyio.current_time()
            try:
                await self._tell_of_changes(folders, recursive)
            except OSError as error:
                log.warning(
                    "watch folders: the system does not tell of changes (%s)", error.strerror or error
                )
                folders = await self._sound_ones(folders, recursive)
            except Exception as error:  # it has errors of its own, for a name that is not UTF-8 among others
                log.warning("watch folders: the watcher was stopped by %s", type(error).__name__)
                failures = min(failures, LONGEST_AFTER_A_NAME)
            if not folders:
                return
            if anyio.current_time() - began_s > RESTART_DELAYS_S[-1]:
                failures = 0
            await anyio.sleep(RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)])
            failures += 1

    async def _tell_of_changes(self, folders: list[str], recursive: bool) -> None:
        watcher = await to_thread.run_sync(_stand, folders, recursive, limiter=self._threads)
        stop = threading.Event()
        try:
            self._all_lost(folders)  # what happened before the watcher stood is found by looking
            async with open_task_group() as tasks:
                # The watcher's thread is waited for, also by who is cancelled; this tells it to end.
                tasks.start_soon(_set_when_cancelled, stop)
                while not stop.is_set():
                    wait = partial(watcher.watch, GATHER_MS, STEP_MS, 0, stop)
                    batch = await to_thread.run_sync(wait, limiter=self._threads)
                    if not isinstance(batch, str):  # else it was stopped
                        self._tell(batch, folders)
                tasks.cancel_scope.cancel()
        finally:
            watcher.close()

    def _tell(self, batch: Iterable[tuple[int, str]], folders: Iterable[str]) -> None:
        batch = list(batch)
        if len(batch) >= FLOOD:
            self._all_lost(folders)
            return
        changes: dict[str, bool] = {}
        for change, path in batch:
            changes[path] = changes.get(path, True) and change == _ADDED
        self._on_changes(changes)

    def _all_lost(self, folders: Iterable[str]) -> None:
        for folder in folders:
            self._on_lost(folder)

    async def _sound_ones(self, folders: list[str], recursive: bool) -> list[str]:
        """Those folders that can be watched by themselves."""
        sound = []
        for folder in folders:
            if await anyio.to_thread.run_sync(_can_be_watched, folder, recursive):
                sound.append(folder)
            else:
                self._on_refused(folder)
        return sound


async def _set_when_cancelled(event: threading.Event) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        event.set()


def _stand(folders: list[str], recursive: bool) -> RustNotify:
    """A watcher of these folders. Walks through all that is below them."""
    from watchfiles._rust_notify import RustNotify  # a library that a daemon without watches does not need

    return RustNotify(folders, False, False, NO_POLLING_MS, recursive, True)


def _can_be_watched(folder: str, recursive: bool) -> bool:
    try:
        _stand([folder], recursive).close()
    except Exception:
        return False
    return True
