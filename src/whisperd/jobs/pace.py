"""How soon a full queue will have room again. Pure: the clock is passed in."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Pace"]

LAST: Final = 20
"""Number of remembered ends of jobs."""
SOONEST_S, LATEST_S, UNKNOWN_S = 1, 600, 30


class Pace:
    """Tracks when jobs end."""

    def __init__(self) -> None:
        self._ends_s: deque[float] = deque(maxlen=LAST)

    def ended(self, now_s: float) -> None:
        """Note that a job ended."""
        self._ends_s.append(now_s)

    def retry_after_s(self, now_s: float) -> int:
        """Return in how many seconds the next job will probably end, from the average of the last ones.

        The estimate grows while no job ends; without any ended job it is a constant.
        """
        if not self._ends_s:
            return UNKNOWN_S
        mean_s = (now_s - self._ends_s[0]) / len(self._ends_s)
        return round(min(max(mean_s, SOONEST_S), LATEST_S))
