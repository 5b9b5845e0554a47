"""What tests share in which a crowd of clients do as they like with one daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from whisperd_testing import LIMIT_S

PATIENCE_S = 5 * LIMIT_S
"""What takes longer hangs, though hundreds of others come first."""


class Budget:
    """So many actions, or so many seconds."""

    def __init__(self, actions: int, seconds: float = 0) -> None:
        self._actions = actions
        self._ends_s = time.monotonic() + seconds if seconds else None
        self.done = 0

    def take(self) -> bool:
        """Whether there is another action to do."""
        is_left = self.done < self._actions if self._ends_s is None else time.monotonic() < self._ends_s
        self.done += is_left
        return is_left


@contextmanager
def not_hanging(what: str) -> Iterator[None]:
    """What is done in the block ends."""
    with anyio.move_on_after(PATIENCE_S) as scope:
        yield
    assert not scope.cancelled_caught, f"{what} hangs"
