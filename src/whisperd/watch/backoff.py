"""Backoff of a watched folder: take no files for a while after an environment failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.watch.failures import retry_delay_s

__all__ = ["LONGEST_BACKOFF_S", "Backoff"]

LONGEST_BACKOFF_S: Final = 600.0
"""Trying with a single file costs little, and work resumes soon after the cause is fixed."""


class Backoff:
    """Counts consecutive environment failures of a folder, and says until when to wait."""

    def __init__(self, settings: Callable[[], WatchSettings]) -> None:
        self.count = 0
        self.problem: WhisperdError | None = None
        """The last failure; None after a success."""
        self.not_writable: set[str] = set()
        """Subfolders, of it or of its output folder, that cannot be written to."""
        self.not_moved: dict[int, float] = {}
        """Files that could not be moved once their command had run, and when to try again."""
        self._settings = settings
        self._until_s = 0.0

    def begin(self, problem: WhisperdError) -> bool:
        """Start to back off; returns False if already backing off.

        Files that were in progress together fail together, which counts as one failure.
        """
        if self.for_s:
            return False
        self.count += 1
        self.problem = problem.copy()
        delay_s = retry_delay_s(self.count, self._settings().retry_delay_s, LONGEST_BACKOFF_S)
        self._until_s = anyio.current_time() + delay_s
        return True

    def try_now(self) -> None:
        """Stop waiting; the next file shows whether the cause is fixed."""
        self._until_s = 0.0
        self.not_moved.update(dict.fromkeys(self.not_moved, 0.0))

    def end(self) -> None:
        """Reset after a success."""
        self.count, self._until_s, self.problem = 0, 0.0, None

    @property
    def for_s(self) -> float:
        """Seconds until the next attempt."""
        return max(0.0, self._until_s - anyio.current_time())
