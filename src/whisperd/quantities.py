"""Sizes, speeds and durations as people have them. Light, for the command line needs them like the daemon."""

from __future__ import annotations

import math
import re

__all__ = ["parsed_duration", "size", "speed"]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = r"([0-9]+(?:\.[0-9]+)?)([smhdw])(?!.*\2)"  # each unit once: another one is a slip


def size(size_bytes: float | None) -> str:
    """Bytes: `145 MB`, `3.09 GB`."""
    if size_bytes is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.{1 if size_bytes < 9.95 and unit != 'B' else 0}f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.{2 if size_bytes < 9.995 else 1}f} GB"  # who is short of memory needs to see it


def speed(times: float | None) -> str:
    """Seconds of speech in a second: `4.5 x`."""
    return "-" if times is None else f"{times:.1f} x"


def parsed_duration(text: str) -> float | None:
    """Seconds of `90s`, `12h` or `1h30m`; None of what is no duration."""
    if not re.fullmatch(f"(?:{_PART})+", text):
        return None
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(_PART, text))
    return seconds if math.isfinite(seconds) else None
