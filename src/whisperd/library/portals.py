"""Event loops in threads, for programs that have none. They end with the program's main thread.

Otherwise a program that has not closed one could not end: it would wait for anyio's worker threads, or for
an event loop whose thread has been stopped in mid-work.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

from anyio.from_thread import BlockingPortal, start_blocking_portal

__all__ = ["open_portal"]

_open: dict[BlockingPortal, threading.Thread] = {}
_lock = threading.Lock()
_watcher: threading.Thread | None = None


@contextmanager
def open_portal() -> Generator[BlockingPortal, None, None]:
    """A thread with an event loop during the block; what runs in it then is waited for, or cancelled."""
    with start_blocking_portal(name="whisperd") as portal:
        thread = portal.call(threading.current_thread)
        with _lock:
            _open[portal] = thread
            _watch_main_thread()
        try:
            yield portal
        finally:
            with _lock:
                _open.pop(portal, None)


def _watch_main_thread() -> None:
    global _watcher  # noqa: PLW0603 - one for each process: a fork has none
    if _watcher is None or not _watcher.is_alive():
        # Not a daemon: the interpreter waits for it before it ends.
        _watcher = threading.Thread(target=_stop_with_main_thread, name="whisperd end")
        _watcher.start()


def _stop_with_main_thread() -> None:
    threading.main_thread().join()
    with _lock:
        left = dict(_open)
    for portal, thread in left.items():
        with suppress(RuntimeError):  # it has just ended
            portal.call(portal.stop, True)
        thread.join()
