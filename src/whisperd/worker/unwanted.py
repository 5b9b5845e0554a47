"""Which windows of the batches that a worker computes nobody wants any more."""

from __future__ import annotations

import threading
from collections.abc import Iterable

__all__ = ["UnwantedGroups"]


class UnwantedGroups:
    """What is not wanted of each batch that is computed. Any thread may ask and tell."""

    def __init__(self) -> None:
        self._groups: dict[int, set[int]] = {}
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def begin(self, batch: int) -> set[int]:
        """A batch is computed from now on; returns its groups that are not wanted, which may become more.

        Those of a batch may be told of before its own thread is so far, and after it has ended. The latter
        are forgotten here: no earlier batch is still to begin.
        """
        with self._lock:
            self._running.add(batch)
            for late in [one for one in self._groups if one < batch and one not in self._running]:
                del self._groups[late]
            return self._groups.setdefault(batch, set())

    def end(self, batch: int) -> None:
        """It is over."""
        with self._lock:
            self._running.discard(batch)
            self._groups.pop(batch, None)

    def add(self, batch: int, groups: Iterable[int]) -> None:
        """Nobody wants these any more."""
        with self._lock:
            self._groups.setdefault(batch, set()).update(groups)
