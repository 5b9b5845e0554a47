"""Ages and moments on the command line: `90s`, `12h`, `30d`, `2026-03-01`."""

from __future__ import annotations

import argparse
import math
import re

__all__ = ["age_s", "since"]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def age_s(text: str) -> float:
    """An age in seconds: `30d`, `1h30m`."""
    if not _AGE.fullmatch(text) or not math.isfinite(
        seconds := sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 90s, 12h or 30d")
    return seconds


def since(text: str) -> str:
    """A moment (RFC 3339): so long ago, or a date by the clock of this computer."""
    from datetime import UTC, datetime, timedelta

    try:
        if _AGE.fullmatch(text):
            moment = datetime.now(UTC) - timedelta(seconds=age_s(text))
        else:
            moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):  # the last is Windows', of what is long ago
        problem = f"{text!r} is neither an age such as 12h or 30d nor a date such as 2026-03-01"
        raise argparse.ArgumentTypeError(problem) from None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
