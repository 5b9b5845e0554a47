"""How soon there will be room where too many jobs wait. Pure: the clock is passed in."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Pace"]

LAST: Final = 20
"""Jobs whose ends are remembered."""
SOONEST_S, LATEST_S, UNKNOWN_S = 1, 600, 30


class Pace:
    """Follows when jobs end."""

    def __init__(self) -> None:
        self._ends_s: deque[float] = deque(maxlen=LAST)

    def ended(self, now_s: float) -> None:
        """A job has ended."""
        self._ends_s.append(now_s)

    def retry_after_s(self, now_s: float) -> int:
        """In how many seconds the next job has probably ended: as the last ones have, on an average.

        One that does not come for a while makes it longer. Without any, nobody knows.
        """
        if not self._ends_s:
            return UNKNOWN_S
        mean_s = (now_s - self._ends_s[0]) / len(self._ends_s)
        return round(min(max(mean_s, SOONEST_S), LATEST_S))
