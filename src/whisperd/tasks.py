"""Additions to anyio: a task group that raises a single failure unwrapped, background tasks that survive an
unexpected error, and an event that can repeat."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskGroup

from whisperd.rpc.errors import WhisperdError

__all__ = ["RepeatedEvent", "keep_running", "open_task_group"]

log = logging.getLogger(__name__)

RESTART_PAUSE_S: Final = 30.0
"""How long a background task pauses after an unexpected error."""


class RepeatedEvent:
    """An event that can occur many times. Each time it wakes all waiters."""

    def __init__(self) -> None:
        self.next = anyio.Event()
        """Set at the next occurrence. Take it before checking a condition, so as to miss none meanwhile."""

    def set(self) -> None:
        """Wake all waiters."""
        self.next.set()
        self.next = anyio.Event()

    async def wait(self) -> None:
        """Wait for the next occurrence."""
        await self.next.wait()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked now and at each occurrence."""
        while not predicate():
            await self.next.wait()


async def keep_running(work: Callable[[], Awaitable[object]]) -> None:
    """Run a background task until it returns; after an unexpected error, log it and run the task again.

    It is no reason to end the daemon: while the system is short of processes, for example, no thread starts.
    """
    while True:
        try:
            await work()
            return
        except Exception:
            log.exception("a background task failed unexpectedly")
        await anyio.sleep(RESTART_PAUSE_S)


@asynccontextmanager
async def open_task_group() -> AsyncIterator[TaskGroup]:
    """Open a task group that raises a single failure itself, not wrapped in a group.

    Most of our groups are an implementation detail of a function whose errors are part of its contract: its
    callers should not need `except*`. If several tasks fail at once, it is nearly always for one reason (all
    windows of a batch are notified that it failed): if all are `WhisperdError`, the first is raised. A bug
    among them is never hidden: then the group is raised.
    """
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        if len(errors) == 1 or all(isinstance(error, WhisperdError) for error in errors):
            raise errors[0] from errors[0].__cause__
        raise


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
