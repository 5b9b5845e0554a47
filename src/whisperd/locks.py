"""Locks among tasks and processes. The kernel lets go of a lock when whoever holds it dies."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
from filelock import FileLock, Timeout

__all__ = ["hold_lock", "try_lock"]

_POLL_S = 0.1


@asynccontextmanager
async def hold_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Hold a lock during the block, waiting for it as long as need be; `on_wait` is told once."""
    for attempt in itertools.count():
        with try_lock(path) as held:
            if held:
                yield
                return
        if attempt == 0:
            on_wait()
        await anyio.sleep(_POLL_S)


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
