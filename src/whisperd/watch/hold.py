"""Why nothing is taken from a folder for a while: not its files are at fault, but what is around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.watch.failures import retry_delay_s

__all__ = ["LONGEST_HOLD_S", "Hold"]

LONGEST_HOLD_S: Final = 600.0
"""What tries with one file costs little, and goes on soon once the cause is gone."""


class Hold:
    """How often in a row the surroundings of a folder were at fault, and until when that is waited for."""

    def __init__(self, settings: Callable[[], WatchSettings]) -> None:
        self.count = 0
        self.problem: WhisperdError | None = None
        """What was at fault; None once something went well."""
        self.not_writable: set[str] = set()
        """Folders below it, or below that of its texts, into which nothing could be written."""
        self._settings = settings
        self._until_s = 0.0

    def begin(self, problem: WhisperdError) -> bool:
        """Take nothing for a while; False if that is so already.

        Files that were at work together fail together, and that counts once.
        """
        if self.for_s:
            return False
        self.count += 1
        self.problem = problem.copy()
        delay_s = retry_delay_s(self.count, self._settings().retry_delay_s, LONGEST_HOLD_S)
        self._until_s = anyio.current_time() + delay_s
        return True

    def try_now(self) -> None:
        """Wait no longer; whether something goes well, the next file shows."""
        self._until_s = 0.0

    def end(self) -> None:
        """Something went well."""
        self.count, self._until_s, self.problem = 0, 0.0, None

    @property
    def for_s(self) -> float:
        """For how long it still lasts."""
        return max(0.0, self._until_s - anyio.current_time())
