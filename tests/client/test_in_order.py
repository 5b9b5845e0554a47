"""Segments reach a reader once and in order, whichever events were missed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whisperd.client.values import InOrder, Segment, Transcript


@given(st.integers(0, 30), st.data())
def test_every_segment_arrives_once_and_in_order(count: int, data: st.DataObject) -> None:
    segments = tuple(Segment(index, index, index + 1.0, f"text {index}") for index in range(count))
    transcript = Transcript("", "en", count, segments, {})
    # Events may be missed, or repeated for a late subscriber; they never arrive out of order.
    indexes = data.draw(st.lists(st.integers(0, max(count - 1, 0)), max_size=40).map(sorted)) if count else []
    in_order = InOrder()
    shown = [segments[index] for index in indexes if in_order.is_next(index)]
    assert [*shown, *in_order.rest(transcript)] == list(segments)
