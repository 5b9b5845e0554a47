"""Quiet hours, during which no work starts. Pure, except for `quiet_now_for_s`, which reads the clock."""

from __future__ import annotations

import re
from typing import Final

from whisperd.clock import local_now

__all__ = ["parse_quiet_hours", "quiet_for_s", "quiet_now_for_s"]

DAY_MINUTES: Final = 24 * 60
_SPAN = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")

Spans = tuple[tuple[int, int], ...]
"""Beginning and end, in minutes after midnight."""


def parse_quiet_hours(text: str) -> Spans:
    """Read `22:00-07:00, 12:30-13:30`. Raises `ValueError`."""
    spans = []
    for part in text.split(","):
        found = _SPAN.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"{part.strip()!r} is not a time span")
        begin, end = (
            int(hours) * 60 + int(minutes) for hours, minutes in (found.group(1, 2), found.group(3, 4))
        )
        if begin >= DAY_MINUTES or end > DAY_MINUTES or int(found[2]) > 59 or int(found[4]) > 59:
            raise ValueError(f"{part.strip()!r} is not within one day")
        spans.append((begin, end))
    return tuple(spans)


def quiet_for_s(spans: Spans, second_of_day: float) -> float:
    """Return how many quiet seconds are left; 0 if none. A span that ends as it begins lasts all day."""
    longest_s = 0.0
    for begin, end in spans:
        length_s = ((end - begin) % DAY_MINUTES or DAY_MINUTES) * 60
        into_s = (second_of_day - begin * 60) % (DAY_MINUTES * 60)
        longest_s = max(longest_s, length_s - into_s)
    return longest_s


def quiet_now_for_s(text: str) -> float:
    """Return `quiet_for_s` for the current local time; `text` must be valid."""
    now = local_now()
    return quiet_for_s(parse_quiet_hours(text), now.hour * 3600 + now.minute * 60 + now.second)
