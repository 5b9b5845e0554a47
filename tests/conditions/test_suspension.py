"""A gap between the clock that goes on and the one that stands still is sleep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.conditions.suspension import SleepWatch, read_clocks


def test_a_night() -> None:
    watch = SleepWatch((1000.0, 900.0))
    assert watch.slept_s((1005.0, 905.0)) == 0.0
    assert watch.slept_s((1005.0 + 28_805.0, 910.0)) == pytest.approx(28_800.0)
    assert watch.slept_s((29_815.0, 915.0)) == 0.0  # it is told once


@given(st.lists(st.floats(0, 1e6), max_size=20), st.floats(0, 1e9))
def test_time_alone_is_no_sleep(steps: list[float], began: float) -> None:
    clocks = (began + 77.0, began)
    watch = SleepWatch(clocks)
    for step in steps:
        clocks = (clocks[0] + step, clocks[1] + step)
        assert watch.slept_s(clocks) == 0.0


def test_without_such_clocks_nothing_is_known() -> None:
    assert SleepWatch(None).slept_s(None) == 0.0
    assert SleepWatch(None).slept_s((1e6, 1.0)) == 0.0


def test_the_clocks_of_this_computer() -> None:
    clocks = read_clocks()
    if clocks is not None:
        assert clocks[0] >= clocks[1] > 0 or clocks[1] > 0
        assert SleepWatch(clocks).slept_s(read_clocks()) == 0.0
