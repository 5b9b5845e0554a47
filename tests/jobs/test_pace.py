"""The estimate of when a queue slot is free, from the pace at which jobs have ended so far."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.jobs.pace import LATEST_S, SOONEST_S, UNKNOWN_S, Pace


@pytest.mark.parametrize(
    ("ends_s", "now_s", "expected"),
    [
        ([], 1e6, UNKNOWN_S),
        ([0.0, 10.0, 20.0, 30.0], 40.0, 10),
        ([0.0, 0.1, 0.2], 0.3, SOONEST_S),
        ([0.0, 1.0], 120.0, 60),
        ([0.0], 1e6, LATEST_S),
    ],
)
def test_the_estimate_follows_the_pace_of_the_last_jobs(
    ends_s: list[float], now_s: float, expected: int
) -> None:
    pace = Pace()
    for end_s in ends_s:
        pace.ended(end_s)
    assert pace.retry_after_s(now_s) == expected


@given(st.lists(st.floats(0, 1e9), max_size=100).map(sorted), st.floats(0, 1e9))
def test_the_estimate_stays_within_its_bounds(ends_s: list[float], later_s: float) -> None:
    pace = Pace()
    for end_s in ends_s:
        pace.ended(end_s)
    assert SOONEST_S <= pace.retry_after_s(max(ends_s, default=0.0) + later_s) <= LATEST_S
