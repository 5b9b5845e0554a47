"""Whether the computer was suspended: one clock goes on while it sleeps, and another one stands still."""

from __future__ import annotations

import sys
import time
from typing import Final

__all__ = ["Clocks", "read_clocks", "slept_between"]

LEAST_S: Final = 2.0
"""A shorter gap is none: the clocks are not read at the same moment."""


Clocks = tuple[float, float]
"""In seconds, read together: one that goes on while the computer sleeps, and one that stands still."""


def slept_between(before: Clocks | None, now: Clocks | None) -> float:
    """For how long the computer has slept, in seconds; 0 if it has not, or there are no such clocks."""
    if before is None or now is None:
        return 0.0
    gap_s = (now[0] - before[0]) - (now[1] - before[1])
    return gap_s if gap_s >= LEAST_S else 0.0


def read_clocks() -> Clocks | None:
    """The clock that counts sleep, and the one that does not; None where the system has not both."""
    names = {
        "linux": ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"),
        "darwin": ("CLOCK_MONOTONIC", "CLOCK_UPTIME_RAW"),
    }
    if sys.platform not in names:
        return None
    goes_on, stands_still = (getattr(time, name) for name in names[sys.platform])
    return time.clock_gettime(goes_on), time.clock_gettime(stands_still)
