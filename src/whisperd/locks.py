"""Locks among tasks and processes. The kernel releases a lock when the process that holds it dies."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

__all__ = ["hold_lock", "is_held", "take_over", "try_lock"]

ENDING_TIMEOUT_S: Final = 30.0
"""A daemon that is shutting down no longer listens, but holds its locks until its last worker has exited."""
_POLL_S: Final = 0.05


@asynccontextmanager
async def hold_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Wait for a lock and hold it during the block; call `on_wait` once if it is not free at once."""
    import anyio  # here, since a client that only checks a lock does not need it

    for attempt in itertools.count():
        with try_lock(path) as held:
            if held:
                yield
                return
        if attempt == 0:
            on_wait()
        await anyio.sleep(_POLL_S)


async def take_over(lock: FileLock, check: Callable[[], None]) -> bool:
    """Acquire a lock that a daemon may hold while it shuts down; False if that takes too long.

    `check` raises if there is no point in waiting. Raises `OSError`.
    """
    import anyio

    with anyio.move_on_after(ENDING_TIMEOUT_S):
        while True:
            with suppress(Timeout):
                lock.acquire(blocking=False)
                return True
            check()
            await anyio.sleep(_POLL_S)
    return False


def is_held(path: Path) -> bool:
    """Whether any process holds a lock; False if its file does not exist or is not accessible."""
    with suppress(OSError):
        if path.exists():
            with try_lock(path) as is_free:
                return not is_free
    return False


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock during the block if it is free, and yield whether it was. Its folder must exist."""
    lock = FileLock(path, thread_local=False)
    with suppress(Timeout):
        lock.acquire(blocking=False)
    try:
        yield lock.is_locked
    finally:
        lock.release()
