"""Putting windows back in order: whatever comes when, the text and its times are the same."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.jobs.stitch import Segment, Stitcher, join_texts
from whisperd.worker.protocol import EngineSegment, WindowResult


def segment(start: float, end: float, text: str = " word") -> EngineSegment:
    return EngineSegment(
        start=start,
        end=end,
        text=text,
        tokens=(7,),
        temperature=0.2,
        avg_logprob=-0.5,
        compression_ratio=1.5,
        no_speech_prob=0.1,
    )


def result(*segments: EngineSegment) -> WindowResult:
    return WindowResult(language="en", language_probability=1.0, segments=segments)


def test_a_segment_stands_on_the_time_line_of_the_file() -> None:
    stitcher = Stitcher()
    released = stitcher.add(0, 61.25, 70.0, result(segment(0.5, 2.0, " Hello")))
    assert released == stitcher.segments
    assert released == [
        Segment(
            id=0,
            seek=6125,
            start=61.75,
            end=63.25,
            text=" Hello",
            tokens=(7,),
            temperature=0.2,
            avg_logprob=-0.5,
            compression_ratio=1.5,
            no_speech_prob=0.1,
        )
    ]


def test_a_window_waits_for_the_one_before() -> None:
    stitcher = Stitcher()
    assert stitcher.add(1, 10, 20, result(segment(0, 10, " two"))) == []
    assert stitcher.add(2, 20, 30, result()) == []
    released = stitcher.add(0, 0, 10, result(segment(0, 10, " one")))
    assert [one.text for one in released] == [" one", " two"]
    assert stitcher.add(3, 30, 40, result(segment(0, 10, " three")))[0].id == 2
    assert stitcher.text == "one two three"


def test_no_windows_are_no_text() -> None:
    assert Stitcher().text == ""


windows = st.lists(
    st.lists(
        st.builds(
            segment,
            st.floats(-5, 40) | st.just(math.nan),
            st.floats(-5, 40) | st.just(math.nan),
            st.sampled_from([" one", "two", " ", "三", ""]),
        ),
        max_size=4,
    ),
    max_size=6,
)


@given(windows=windows, data=st.data())
def test_any_order_of_arrival_gives_the_same(windows: list[list[EngineSegment]], data: st.DataObject) -> None:
    arrived = [
        (index, 20.0 * index, 20.0 * index + 18.5, result(*segments))
        for index, segments in enumerate(windows)
    ]
    in_order, shuffled = Stitcher(), Stitcher()
    for one in arrived:
        in_order.add(*one)
    released = [shuffled.add(*one) for one in data.draw(st.permutations(arrived))]
    assert list(itertools.chain(*released)) == shuffled.segments == in_order.segments
    assert shuffled.text == in_order.text
    assert [one.id for one in in_order.segments] == list(range(sum(map(len, windows))))


@given(windows=windows)
def test_times_never_go_back_nor_out_of_the_window(windows: list[list[EngineSegment]]) -> None:
    stitcher = Stitcher()
    reached_s = 0.0
    for index, segments in enumerate(windows):
        start_s, end_s = 20.0 * index, 20.0 * index + 18.5
        for one in stitcher.add(index, start_s, end_s, result(*segments)):
            assert max(reached_s, start_s) <= one.start <= one.end <= end_s
            reached_s = one.end


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        ([" And so", " my fellow"], "And so my fellow"),
        (["And so", "my fellow"], "And so my fellow"),
        (["And so ", " my fellow "], "And so my fellow"),
        (["one", "", "  ", "two"], "one two"),
        (["你好", "世界"], "你好世界"),
        (["これは。", "テスト"], "これは。テスト"),
        (["使用", "Python"], "使用Python"),
        (["안녕하세요", "세계"], "안녕하세요 세계"),
        (["great 👍", "thanks"], "great 👍 thanks"),
        (["Привет,", "мир"], "Привет, мир"),
    ],
)
def test_texts_are_joined_as_their_script_does(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined
