"""Additions to anyio: a task group that raises a single failure unwrapped, and an event that can repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from whisperd.rpc.errors import WhisperdError

__all__ = ["RepeatedEvent", "open_task_group"]


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
