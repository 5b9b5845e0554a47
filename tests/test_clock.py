"""The wall clock."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Iterator

import pytest

from whisperd.clock import local_now


@pytest.fixture
def travelling(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test change the time zone, and restores it."""
    if os.name != "posix":
        pytest.skip("needs the variable TZ")
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("zone", "hours"), [("EAST-9", 9), ("WEST+5", -5)])
def test_local_time_follows_a_change_of_the_time_zone(
    travelling: pytest.MonkeyPatch, zone: str, hours: int
) -> None:
    assert local_now().tzinfo is not None
    travelling.setenv("TZ", zone)
    assert local_now().utcoffset() == datetime.timedelta(hours=hours)
