"""Where a recording is listened to for its language."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whisperd.audio.clips import Clip
from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.sampling import HEARD_S, SAMPLE_S, best_stretch, places
from whisperd.audio.speech import Span


def test_places_are_spread_over_all_of_it() -> None:
    assert [clip.start for clip in places(3600.0, (), 4, 90.0)] == [450.0, 1350.0, 2250.0, 3150.0]


@pytest.mark.parametrize("duration_s", [None, 0.0, 60.0])
def test_a_short_file_or_one_of_unknown_length_has_none(duration_s: float | None) -> None:
    assert places(duration_s, (), 5, 90.0) == []


@pytest.mark.parametrize(("duration_s", "count"), [(14.0, 1), (30.0, 3), (60.0, 5), (80.0, 5)])
def test_a_short_file_whose_language_may_change_has_no_more_places_than_fit(
    duration_s: float, count: int
) -> None:
    found = places(duration_s, (), 5, 14.0)
    assert len(found) == count
    assert all(clip.end == pytest.approx(clip.start + HEARD_S) for clip in found)


def test_only_the_parts_that_are_wanted_are_listened_to() -> None:
    found = places(3600.0, (Clip(100.0, 160.0), Clip(3300.0)), 4, 90.0)
    assert [clip.start for clip in found] == [145.0, 3375.0, 3465.0, 3555.0]
    assert places(3600.0, (Clip(100.0, 130.0),), 5, 90.0) == []


@example(90.0, [(0.0, 0.0)], 1)
@given(
    st.floats(90, 1e5),
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 500)), max_size=4),
    st.integers(1, 8),
)
def test_places_lie_within_the_parts(duration_s: float, parts: list[tuple[float, float]], count: int) -> None:
    clips, position = [], 0.0
    for gap, length in parts:
        clips.append(Clip(position + gap, position + gap + length))
        position += gap + length + 1
    for place in places(duration_s, clips, count, 90.0):
        assert place.end is not None
        assert place.start < place.end <= duration_s
        inside = [clip for clip in clips if clip.start <= place.start and place.end <= (clip.end or 0) + 1e-6]
        assert inside or not clips


def test_the_stretch_with_most_speech_is_listened_to() -> None:
    second = SAMPLE_RATE
    spans = [Span(0, second, 0), Span(5 * second, 9 * second, 0), Span(10 * second, 12 * second, 0)]
    start, end = best_stretch(spans, 14 * second) or (0, 0)
    assert (start, end) == (5 * second, round((5 + SAMPLE_S) * second))


def test_hardly_any_speech_says_nothing() -> None:
    assert best_stretch([Span(0, SAMPLE_RATE, 0)], 14 * SAMPLE_RATE) is None
    assert best_stretch([], 14 * SAMPLE_RATE) is None
