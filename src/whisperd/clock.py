"""The wall clock, as everything that is told of it writes it."""

from __future__ import annotations

import datetime

__all__ = ["now_rfc3339"]


def now_rfc3339() -> str:
    """The present moment in UTC, to the millisecond, as RFC 3339 has it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
