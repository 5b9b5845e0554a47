"""Ages and points in time on the command line: `90s`, `12h`, `30d`, `2026-03-01`."""

from __future__ import annotations

import argparse

from whisperd.quantities import parsed_duration

__all__ = ["age_s", "since"]


def age_s(text: str) -> float:
    """Return an age such as `30d` or `1h30m` in seconds."""
    if (seconds := parsed_duration(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age such as 90s, 12h or 30d")
    return seconds


def since(text: str) -> str:
    """Return a point in time (RFC 3339) from an age or from a date in local time."""
    from datetime import datetime

    from whisperd.clock import rfc3339_ago, to_rfc3339

    if (seconds := parsed_duration(text)) is not None:
        return rfc3339_ago(seconds)
    try:
        return to_rfc3339(datetime.fromisoformat(text))
    except ValueError:
        problem = f"{text!r} is neither an age such as 12h or 30d nor a date such as 2026-03-01"
        raise argparse.ArgumentTypeError(problem) from None
