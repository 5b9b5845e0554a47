"""The wall clock, as everything that is told of it writes it."""

from __future__ import annotations

import datetime

__all__ = ["now_rfc3339", "rfc3339_ago", "seconds_until", "to_rfc3339"]


def now_rfc3339() -> str:
    """The present moment in UTC, to the millisecond, as RFC 3339 has it."""
    return to_rfc3339(datetime.datetime.now(datetime.UTC))


def rfc3339_ago(seconds: float) -> str:
    """The moment that is so long past."""
    try:
        moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    except OverflowError:
        moment = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return to_rfc3339(moment)


def to_rfc3339(moment: datetime.datetime) -> str:
    """A moment in UTC, to the millisecond; one without a time zone is by the clock of this computer.

    Raises `ValueError` where its calendar does not reach.
    """
    try:
        in_utc = moment.astimezone(datetime.UTC)
    except (OverflowError, OSError) as error:  # the last is Windows', of what is long ago
        raise ValueError(str(error)) from error
    return in_utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_until(moment: str) -> float:
    """How long it is until a moment (RFC 3339); 0 if it is past."""
    wait = datetime.datetime.fromisoformat(moment) - datetime.datetime.now(datetime.UTC)
    return max(0.0, wait.total_seconds())
