"""Formats sizes and speeds for people, and parses durations. Imports stay light: clients use this."""

from __future__ import annotations

import math
import re

__all__ = ["parsed_duration", "size", "speed"]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = r"([0-9]+(?:\.[0-9]+)?)([smhdw])(?!.*\2)"  # each unit at most once: a second one is a mistake


def size(size_bytes: float | None) -> str:
    """Format a number of bytes: `145 MB`, `3.09 GB`."""
    if size_bytes is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.{1 if size_bytes < 9.95 and unit != 'B' else 0}f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.{2 if size_bytes < 9.995 else 1}f} GB"  # two decimals matter when memory is short


def speed(times: float | None) -> str:
    """Format seconds of speech per second: `4.5 x`."""
    return "-" if times is None else f"{times:.1f} x"


def parsed_duration(text: str) -> float | None:
    """Return the seconds of `90s`, `12h` or `1h30m`; None if it is not a duration."""
    if not re.fullmatch(f"(?:{_PART})+", text):
        return None
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(_PART, text))
    return seconds if math.isfinite(seconds) else None
