"""Locks among tasks and processes. The kernel lets go of a lock when whoever holds it dies."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

__all__ = ["hold_lock", "is_held", "take_over", "try_lock"]

ENDING_TIMEOUT_S: Final = 30.0
"""A daemon that is ending listens no more, but holds its locks until its last worker is gone."""
_POLL_S: Final = 0.05


@asynccontextmanager
async def hold_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Hold a lock during the block, waiting for it as long as need be; `on_wait` is told once."""
    import anyio  # not before: a client that looks at a lock needs none

    for attempt in itertools.count():
        with try_lock(path) as held:
            if held:
                yield
                return
        if attempt == 0:
            on_wait()
        await anyio.sleep(_POLL_S)


async def take_over(lock: FileLock, check: Callable[[], None]) -> bool:
    """Take a lock that a daemon may hold which is ending; False where it is held for too long.

    `check` raises where there is nothing to wait for. Raises `OSError`.
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
    """Whether somebody holds a lock; nobody does where there is none, or we may not look."""
    with suppress(OSError):
        if path.exists():
            with try_lock(path) as is_free:
                return not is_free
    return False


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock during the block if nobody else has it; whether that is so. Its folder has to exist."""
    lock = FileLock(path, thread_local=False)
    with suppress(Timeout):
        lock.acquire(blocking=False)
    try:
        yield lock.is_locked
    finally:
        lock.release()
