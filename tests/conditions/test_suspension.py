"""Sleep is the gap between the clock that continues during sleep and the one that stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.conditions.suspension import read_clocks, slept_between


def test_sleep_is_the_difference_of_the_clocks() -> None:
    assert slept_between((1000.0, 900.0), (1005.0, 905.0)) == 0.0
    assert slept_between((1005.0, 905.0), (1005.0 + 28_805.0, 910.0)) == pytest.approx(28_800.0)


@given(st.floats(0, 1e6), st.floats(0, 1e9))
def test_elapsed_time_is_not_sleep(step: float, began: float) -> None:
    assert slept_between((began + 77.0, began), (began + 77.0 + step, began + step)) == 0.0


def test_without_the_clocks_no_sleep_is_reported() -> None:
    assert slept_between(None, (1e6, 1.0)) == slept_between((1e6, 1.0), None) == 0.0


def test_the_clocks_of_this_computer() -> None:
    clocks = read_clocks()
    if clocks is not None:
        assert clocks[0] >= clocks[1] > 0 or clocks[1] > 0
        assert slept_between(clocks, read_clocks()) == 0.0
