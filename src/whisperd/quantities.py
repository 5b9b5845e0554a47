"""Sizes and speeds as a person reads them. Light, for the command line says them as well as the daemon."""

from __future__ import annotations

__all__ = ["size", "speed"]


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
