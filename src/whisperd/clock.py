"""Reads the wall clock and writes times in RFC 3339, as on the wire and in the database."""

from __future__ import annotations

import datetime
import sys
import time

__all__ = ["local_now", "now_rfc3339", "rfc3339_ago", "seconds_until", "to_rfc3339"]


def local_now() -> datetime.datetime:
    """Return the current time in this computer's time zone.

    The C library keeps the zone that it has read until it is told to read it again: after a journey, a daemon
    would still have that of its start.
    """
    if sys.platform != "win32":
        time.tzset()
    return datetime.datetime.now().astimezone()


def now_rfc3339() -> str:
    """Return the current time in UTC, to the millisecond, in RFC 3339."""
    return to_rfc3339(datetime.datetime.now(datetime.UTC))


def rfc3339_ago(seconds: float) -> str:
    """Return the time so many seconds ago."""
    try:
        moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    except OverflowError:
        moment = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return to_rfc3339(moment)


def to_rfc3339(moment: datetime.datetime) -> str:
    """Convert a time to UTC, to the millisecond; without a time zone, it is taken as local time.

    Raises `ValueError` if it is outside the range of `datetime`.
    """
    try:
        in_utc = moment.astimezone(datetime.UTC)
    except (OverflowError, OSError) as error:  # OSError: Windows, for times long ago
        raise ValueError(str(error)) from error
    return in_utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_until(moment: str) -> float:
    """Return the seconds until a time (RFC 3339); 0 if it is past."""
    wait = datetime.datetime.fromisoformat(moment) - datetime.datetime.now(datetime.UTC)
    return max(0.0, wait.total_seconds())
