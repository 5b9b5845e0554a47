"""Whether somebody needs the computer: calibration makes way at once, and goes on when it is quiet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from whisperd.tasks import RepeatedEvent

__all__ = ["Idle"]


class Idle:
    """Knows of work that goes before, since it is told of every change."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._scopes: set[anyio.CancelScope] = set()
        self._changed = RepeatedEvent()

    @property
    def is_busy(self) -> bool:
        """Whether there is work that goes before."""
        return self._is_busy()

    def notice(self) -> None:
        """There may be work that goes before now, which interrupts, or none any more."""
        if self._is_busy():
            for scope in self._scopes:
                scope.cancel()
        self._changed.set()

    @property
    def change(self) -> anyio.Event:
        """Set with the next notice."""
        return self._changed.next

    async def quiet(self, quiet_s: float) -> None:
        """Wait until there was no such work for so many seconds."""
        while True:
            await self._changed.wait_for(lambda: not self._is_busy())
            with anyio.move_on_after(quiet_s):
                await self._changed.wait_for(self._is_busy)
                continue
            return

    @contextmanager
    def interruptible(self) -> Iterator[anyio.CancelScope]:
        """A block that is cancelled as soon as there is work that goes before."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._is_busy():
                scope.cancel()
            try:
                yield scope
            finally:
                self._scopes.discard(scope)
                self._changed.set()

    async def vacated(self) -> None:
        """Interrupt what can be, and wait until all of it has ended, and given back what it held."""
        while self._scopes:
            for scope in self._scopes:
                scope.cancel()
            await self._changed.wait()
