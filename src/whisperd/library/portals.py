"""Event loops in threads, for programs without one. They stop when the program's main thread ends.

Otherwise a program that has not closed one would hang at exit: it would wait for anyio's worker threads, or
for an event loop whose thread was stopped in the middle of its work.
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
    """Run an event loop in a thread during the block; at its end, wait for its tasks or cancel them."""
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
        # Not a daemon thread: the interpreter waits for it before it exits.
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
