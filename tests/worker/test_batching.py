"""Which windows of a batch are computed together."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.batching import alike

FRAMES = st.lists(st.integers(100, 3000), min_size=1, max_size=20)
SPREADS = st.integers(0, 3000)


@given(FRAMES, SPREADS)
def test_each_is_computed_once_and_gets_little_in_vain(frames: list[int], spread: int) -> None:
    groups = alike(frames, spread)
    assert sorted(place for group in groups for place in group) == list(range(len(frames)))
    for group in groups:
        longest = max(frames[place] for place in group)
        assert frames[group[0]] == longest
        assert all(longest - frames[place] <= spread for place in group)


@given(FRAMES, SPREADS)
def test_no_two_groups_could_be_one(frames: list[int], spread: int) -> None:
    groups = alike(frames, spread)
    for longer, shorter in pairwise(groups):
        assert frames[longer[0]] - min(frames[place] for place in shorter) > spread


def test_what_is_alike_stays_together() -> None:
    assert alike([1000, 2000, 1100, 1900], 200) == [[1, 3], [2, 0]]
    assert alike([1000, 2000, 1100], 3000) == [[1, 2, 0]]
