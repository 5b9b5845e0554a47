"""Detect suspension of the computer, by comparing a clock that counts sleep with one that does not."""

from __future__ import annotations

import sys
import time
from typing import Final

__all__ = ["Clocks", "read_clocks", "slept_between"]

LEAST_S: Final = 2.0
"""Shorter gaps are ignored: the clocks are not read at the same instant."""


Clocks = tuple[float, float]
"""Two readings in seconds, taken together: of a clock that counts sleep, and of one that does not."""


def slept_between(before: Clocks | None, now: Clocks | None) -> float:
    """Return how many seconds the computer slept; 0 if it did not, or without such clocks."""
    if before is None or now is None:
        return 0.0
    gap_s = (now[0] - before[0]) - (now[1] - before[1])
    return gap_s if gap_s >= LEAST_S else 0.0


def read_clocks() -> Clocks | None:
    """Read the clock that counts sleep and the one that does not; None if the system lacks either."""
    names = {
        "linux": ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"),
        "darwin": ("CLOCK_MONOTONIC", "CLOCK_UPTIME_RAW"),
    }
    if sys.platform not in names:
        return None
    goes_on, stands_still = (getattr(time, name) for name in names[sys.platform])
    return time.clock_gettime(goes_on), time.clock_gettime(stands_still)
