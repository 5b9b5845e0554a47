"""Helpers for tests in which a crowd of clients use one daemon at random."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from whisperd_testing import LIMIT_S

PATIENCE_S = 5 * LIMIT_S
"""An operation that takes longer hangs, even if hundreds of others come first."""


class Budget:
    """A number of actions, or a time in seconds."""

    def __init__(self, actions: int, seconds: float = 0) -> None:
        self._actions = actions
        self._ends_s = time.monotonic() + seconds if seconds else None
        self.done = 0

    def take(self) -> bool:
        """Whether another action is left; counts it as done."""
        is_left = self.done < self._actions if self._ends_s is None else time.monotonic() < self._ends_s
        self.done += is_left
        return is_left


@contextmanager
def not_hanging(what: str) -> Iterator[None]:
    """Fail if the block does not end within `PATIENCE_S`."""
    with anyio.move_on_after(PATIENCE_S) as scope:
        yield
    assert not scope.cancelled_caught, f"{what} hangs"
