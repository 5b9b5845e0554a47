from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.speech import Span
from whisperd.audio.windows import LOOKAHEAD, PAD, REACH, Window, WindowPlanner, cut_cost, window_cost


def spans_of(*seconds: tuple[float, float]) -> list[Span]:
    """Spans from (pause, length) in seconds."""
    spans, end = [], 0
    for pause, length in seconds:
        start = end + round(pause * SAMPLE_RATE)
        spans.append(Span(start, start + round(length * SAMPLE_RATE), start - end))
        end = spans[-1].end
    return spans


def plan(spans: Sequence[Span], max_window_s: float = 20.0, tail: int = 0) -> list[Window]:
    planner = WindowPlanner(max_window_s)
    windows = [window for span in spans for window in planner.add(span)]
    return windows + list(planner.finish((spans[-1].end if spans else 0) + tail))


def seconds(windows: list[Window]) -> list[tuple[float, float]]:
    return [(round(window.start / SAMPLE_RATE, 3), round(window.end / SAMPLE_RATE, 3)) for window in windows]


stretches = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.15, 0.3, 0.5, 0.9, 2.0, 5.0]) | st.floats(0, 9), st.floats(0.05, 12)
    ),
    max_size=40,
).map(lambda pairs: spans_of(*pairs))
limits = st.floats(1, 30)


def test_no_speech_makes_no_windows() -> None:
    assert plan([], tail=100 * SAMPLE_RATE) == []


def test_a_short_recording_is_one_window_padded_as_far_as_it_reaches() -> None:
    assert seconds(plan(spans_of((0.1, 2), (0.3, 3)), tail=SAMPLE_RATE // 10)) == [(0.0, 5.5)]
    assert seconds(plan(spans_of((1, 2)), tail=SAMPLE_RATE)) == [(0.8, 3.2)]


def test_the_cut_is_in_the_longest_pause_and_not_where_the_window_is_full() -> None:
    windows = seconds(plan(spans_of((0, 6), (0.2, 4), (1.0, 4), (0.2, 4), (0.2, 4))))
    assert windows == [(0.0, 10.4), (11.0, 23.6)]


def test_the_plan_looks_ahead() -> None:
    # The longest pause in reach is the one after 9 s, but then what follows does not fit one window.
    windows = seconds(plan(spans_of((0, 9), (1.0, 7), (0.5, 6.5), (0.1, 6.9), (0.1, 5.4))))
    assert windows == [(0.0, 17.2), (17.3, 36.5)]


def test_a_long_silence_is_not_sent_and_ends_the_wait() -> None:
    planner = WindowPlanner(26.0)
    (span,) = spans_of((0, 2))
    assert list(planner.add(span)) == []
    assert list(planner.advance(span.end + SAMPLE_RATE)) == []
    assert seconds(list(planner.advance(span.end + 3 * SAMPLE_RATE))) == [(0.0, 2.2)]
    assert planner.keep_from == span.end + 3 * SAMPLE_RATE - SAMPLE_RATE // 5


def test_windows_that_later_speech_cannot_change_are_released_at_once() -> None:
    planner = WindowPlanner(20.0)
    released = [seconds(list(planner.add(span))) for span in spans_of((0, 15), (1, 15), (1, 15))]
    assert released == [[], [(0.0, 15.2)], [(15.8, 31.2)]]


def test_neighbours_share_a_short_pause() -> None:
    first, second = plan(spans_of((0, 15), (0.1, 15)))
    assert first.end == second.start == round(15.05 * SAMPLE_RATE)


def test_speech_longer_than_a_window_is_divided() -> None:
    windows = plan(spans_of((0, 100)), max_window_s=10)
    assert len(windows) >= 11
    assert windows[-1].end == 100 * SAMPLE_RATE


@given(stretches, limits, st.integers(0, SAMPLE_RATE))
def test_every_sample_of_speech_is_in_exactly_one_window(
    spans: list[Span], max_window_s: float, tail: int
) -> None:
    whole = plan(spans, max_window_s, tail)
    assert all(0 < window.end - window.start <= max_window_s * SAMPLE_RATE for window in whole)
    windows = [Window(window.start, window.end - window.shared) for window in whole]
    total = (spans[-1].end if spans else 0) + tail
    edges = [0, *itertools.chain.from_iterable((window.start, window.end) for window in windows), total]
    assert edges == sorted(edges)
    for span in spans:
        inside = sum(max(0, min(span.end, window.end) - max(span.start, window.start)) for window in windows)
        assert inside == span.end - span.start


def continuous(lengths: list[tuple[bool, float]]) -> list[Span]:
    """Spans of these lengths, in seconds, in which somebody speaks on, or pauses for half a second."""
    spans, end = [], 0
    for goes_on, length in lengths:
        pause = 0 if not spans or spans[-1].goes_on else SAMPLE_RATE // 2
        spans.append(Span(end + pause, end + pause + round(length * SAMPLE_RATE), pause, goes_on))
        end = spans[-1].end
    if spans:
        spans[-1] = replace(spans[-1], goes_on=False)
    return spans


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.05, 3.4)), max_size=40).map(continuous),
    st.floats(5, 30),
)
def test_the_window_before_a_cut_through_speech_hears_on(spans: list[Span], max_window_s: float) -> None:
    windows = plan(spans, max_window_s)
    assert all(0 < window.end - window.start <= max_window_s * SAMPLE_RATE for window in windows)
    lengths = {span.start: span.end - span.start for span in spans}
    cuts = {span.end: lengths[span.end] for span in spans if span.goes_on}
    reach = int(min(REACH, max_window_s * SAMPLE_RATE / 8))
    for first, second in itertools.pairwise(windows):
        assert first.end - second.start == first.shared if first.shared else first.end <= second.start
        assert first.start < second.start
        assert first.end <= second.end
        if second.start in cuts:
            assert first.shared == min(reach, cuts[second.start])
        else:
            assert first.shared == 0
    for span in spans:
        heard = itertools.chain.from_iterable(range(one.start, one.end, 800) for one in windows)
        assert {at for at in heard if span.start <= at < span.end} or span.end - span.start < 1600
    assert not windows or windows[-1].shared == 0


def test_speech_that_never_pauses_is_shared_by_its_windows() -> None:
    windows = seconds(plan(continuous([(True, 5.0)] * 11 + [(False, 5.0)]), max_window_s=26))
    assert windows == [(0.0, 22.0), (20.0, 42.0), (40.0, 60.0)]


@given(stretches, limits, st.lists(st.floats(0, 1), max_size=40))
def test_the_plan_does_not_depend_on_when_silence_is_told(
    spans: list[Span], max_window_s: float, hints: list[float]
) -> None:
    planner, windows, end = WindowPlanner(max_window_s), [], 0
    for index, span in enumerate(spans):
        if index < len(hints):
            windows += planner.advance(end + int(hints[index] * (span.start - end)))
        keep_from = planner.keep_from
        new = list(planner.add(span))
        assert all(window.start >= keep_from for window in new)
        windows += new
        end = span.end
    keep_from = planner.keep_from
    last = list(planner.finish(end))
    assert all(window.start >= keep_from for window in last)
    assert windows + last == plan(spans, max_window_s)


@given(stretches, limits)
def test_what_is_held_back_is_bounded(spans: list[Span], max_window_s: float) -> None:
    planner = WindowPlanner(max_window_s)
    for span in spans:
        list(planner.add(span))
        assert span.end - planner.keep_from <= LOOKAHEAD + PAD + 1


@given(
    st.lists(st.tuples(st.floats(0.05, 2.5), st.floats(0.2, 6)), min_size=1, max_size=7).map(
        lambda pairs: spans_of(*pairs)
    )
)
def test_no_other_way_to_cut_is_cheaper(spans: list[Span]) -> None:
    limit = 12 * SAMPLE_RATE - 2 * PAD

    def price(cuts: Sequence[int]) -> float:
        total = 0.0
        for first, last in itertools.pairwise([0, *cuts, len(spans)]):
            length = spans[last - 1].end - spans[first].start
            if length > limit:
                return float("inf")
            total += window_cost(length)
        return total + sum(cut_cost(spans[cut].pause) for cut in cuts)

    places = range(1, len(spans))
    cheapest = min(
        price(cuts) for count in range(len(spans)) for cuts in itertools.combinations(places, count)
    )
    windows = plan(spans, max_window_s=12)
    ends = [sum(span.end <= window.end for span in spans) for window in windows]
    assert price(ends[:-1]) == pytest.approx(cheapest)


def test_an_hour_of_talk_comes_out_as_it_goes_in() -> None:
    random_numbers = random.Random(5)
    pairs = [(random_numbers.uniform(0.1, 0.8), random_numbers.uniform(0.5, 5)) for _ in range(1000)]
    planner, waited = WindowPlanner(26.0), []
    for span in spans_of(*pairs):
        waited += [(span.end - window.start) / SAMPLE_RATE for window in planner.add(span)]
    assert len(waited) > 100
    assert max(waited) <= 60 + 5.8  # the look-ahead, and the span that went beyond it
