"""Detects whether the daemon has other work: calibration yields at once, and resumes when it is idle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from whisperd.tasks import RepeatedEvent

__all__ = ["Idle"]


class Idle:
    """Tracks whether there is other work, which has precedence; `notice` must be called at every change."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._scopes: set[anyio.CancelScope] = set()
        self._changed = RepeatedEvent()

    @property
    def is_busy(self) -> bool:
        """Whether there is other work."""
        return self._is_busy()

    def notice(self) -> None:
        """Handle a change of the other work: interrupt the blocks if there is any now."""
        if self._is_busy():
            for scope in self._scopes:
                scope.cancel()
        self._changed.set()

    @property
    def change(self) -> anyio.Event:
        """An event that is set by the next `notice`."""
        return self._changed.next

    async def quiet(self, quiet_s: float) -> None:
        """Wait until there has been no other work for `quiet_s` seconds."""
        while True:
            await self._changed.wait_for(lambda: not self._is_busy())
            with anyio.move_on_after(quiet_s):
                await self._changed.wait_for(self._is_busy)
                continue
            return

    @contextmanager
    def interruptible(self) -> Iterator[anyio.CancelScope]:
        """Run a block that is cancelled as soon as there is other work."""
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
        """Interrupt all interruptible blocks, and wait until they have ended and freed what they held."""
        while self._scopes:
            for scope in self._scopes:
                scope.cancel()
            await self._changed.wait()
