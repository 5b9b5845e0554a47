"""Tracks which windows of a worker's current batches are no longer wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterable

__all__ = ["UnwantedGroups"]


class UnwantedGroups:
    """The unwanted groups of each current batch. Thread-safe."""

    def __init__(self) -> None:
        self._groups: dict[int, set[int]] = {}
        self._running: set[int] = set()
        self._lock = threading.Lock()

    def begin(self, batch: int) -> set[int]:
        """Begin a batch; returns the set of its unwanted groups, which may grow.

        Groups may be reported before the batch's own thread begins it, and after it has ended. The latter are
        dropped here, since no earlier batch can begin any more.
        """
        with self._lock:
            self._running.add(batch)
            for late in [one for one in self._groups if one < batch and one not in self._running]:
                del self._groups[late]
            return self._groups.setdefault(batch, set())

    def end(self, batch: int) -> None:
        """End a batch."""
        with self._lock:
            self._running.discard(batch)
            self._groups.pop(batch, None)

    def add(self, batch: int, groups: Iterable[int]) -> None:
        """Mark groups of a batch as unwanted."""
        with self._lock:
            self._groups.setdefault(batch, set()).update(groups)
