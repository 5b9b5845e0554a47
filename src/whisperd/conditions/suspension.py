"""Whether the computer was suspended: one clock goes on while it sleeps, and another one stands still."""

from __future__ import annotations

import sys
import time
from typing import Final

__all__ = ["SleepWatch", "read_clocks"]

LEAST_S: Final = 2.0
"""A shorter gap is none: the clocks are not read at the same moment."""


class SleepWatch:
    """Finds gaps between two clocks that were read together."""

    def __init__(self, clocks: tuple[float, float] | None) -> None:
        """`clocks` in seconds: one that goes on, and one that stands still; None where there are no such."""
        self._clocks = clocks

    def slept_s(self, clocks: tuple[float, float] | None) -> float:
        """For how long the computer has slept since the last time, in seconds; 0 if it has not."""
        before, self._clocks = self._clocks, clocks
        if before is None or clocks is None:
            return 0.0
        gap_s = (clocks[0] - before[0]) - (clocks[1] - before[1])
        return gap_s if gap_s >= LEAST_S else 0.0


def read_clocks() -> tuple[float, float] | None:
    """The clock that counts sleep, and the one that does not; None where the system has not both."""
    names = {
        "linux": ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"),
        "darwin": ("CLOCK_MONOTONIC", "CLOCK_UPTIME_RAW"),
    }
    if sys.platform not in names:
        return None
    goes_on, stands_still = (getattr(time, name) for name in names[sys.platform])
    return time.clock_gettime(goes_on), time.clock_gettime(stands_still)
