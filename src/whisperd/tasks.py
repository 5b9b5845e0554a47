"""What anyio leaves open: a task group that fails with the error itself, and an event that comes again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from whisperd.rpc.errors import WhisperdError

__all__ = ["RepeatedEvent", "open_task_group"]


class RepeatedEvent:
    """An event that comes again and again: each time it wakes all who wait, and is waited for anew."""

    def __init__(self) -> None:
        self.next = anyio.Event()
        """Set when it comes. Who takes it before looking at something misses nothing that comes meanwhile."""

    def set(self) -> None:
        """Wake all who wait."""
        self.next.set()
        self.next = anyio.Event()

    async def wait(self) -> None:
        """Wait until it comes the next time."""
        await self.next.wait()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until something holds, which is looked at now and whenever the event has come."""
        while not predicate():
            await self.next.wait()


@asynccontextmanager
async def open_task_group() -> AsyncIterator[TaskGroup]:
    """A task group that raises a single failure as it is, not wrapped in a group.

    Most of our groups are an implementation detail of a function whose errors are part of its
    contract: whoever calls it should not need `except*`. Where several tasks fail at once, it is
    nearly always for one reason (all windows of a batch learn that it failed): the first
    `WhisperdError` speaks for all. A mistake among them is never hidden: then the group is raised.
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
