"""Putting windows back in order: the text and its times do not depend on the order of arrival."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio import WindowAudio
from whisperd.jobs.segments import Segment, Word, join_texts
from whisperd.jobs.stitch import Stitcher
from whisperd.worker.protocol import EngineSegment, EngineWord, WindowResult


def a_window(
    index: int, start: float, end: float, channel: int | None = None, shared: float = 0.0
) -> WindowAudio:
    return WindowAudio(index=index, start=start, end=end, pcm=b"", channel=channel, shared=shared)


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


def test_segment_times_are_relative_to_the_file() -> None:
    stitcher = Stitcher()
    released = stitcher.add(a_window(0, 61.25, 70.0), result(segment(0.5, 2.0, " Hello")))
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
            language="en",
        )
    ]


def test_a_window_waits_for_the_previous_one() -> None:
    stitcher = Stitcher()
    assert stitcher.add(a_window(1, 10, 20), result(segment(0, 10, " two"))) == []
    assert stitcher.add(a_window(2, 20, 30), result()) == []
    released = stitcher.add(a_window(0, 0, 10), result(segment(0, 10, " one")))
    assert [one.text for one in released] == [" one", " two"]
    assert stitcher.add(a_window(3, 30, 40), result(segment(0, 10, " three")))[0].id == 2
    assert stitcher.text == "one two three"


def test_done_s_counts_only_windows_without_gaps() -> None:
    stitcher = Stitcher()
    stitcher.add(a_window(1, 10, 20), result())
    assert stitcher.done_s == 0
    stitcher.add(a_window(0, 0, 9), result())
    assert stitcher.done_s == 20


def test_without_windows_there_is_no_text() -> None:
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
def test_any_order_of_arrival_gives_the_same_result(
    windows: list[list[EngineSegment]], data: st.DataObject
) -> None:
    arrived = [
        (a_window(index, 20.0 * index, 20.0 * index + 18.5), result(*segments))
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
def test_segment_times_increase_and_stay_in_their_window(windows: list[list[EngineSegment]]) -> None:
    stitcher = Stitcher()
    reached_s = 0.0
    for index, segments in enumerate(windows):
        start_s, end_s = 20.0 * index, 20.0 * index + 18.5
        for one in stitcher.add(a_window(index, start_s, end_s), result(*segments)):
            assert max(reached_s, start_s) <= one.start <= one.end <= end_s
            reached_s = one.end


def engine_words(*spans: tuple[float, float]) -> tuple[EngineWord, ...]:
    return tuple(EngineWord(text=" w", start=start, end=end, probability=0.5) for start, end in spans)


def test_word_times_are_relative_to_the_file() -> None:
    one = msgspec.structs.replace(segment(0.5, 2.0), words=engine_words((0.5, 1.0), (1.25, 2.0)))
    (found,) = Stitcher().add(a_window(0, 60.0, 70.0), result(one))
    assert found.words == (
        Word(text=" w", start=60.5, end=61.0, probability=0.5),
        Word(text=" w", start=61.25, end=62.0, probability=0.5),
    )


def test_words_that_were_not_requested_are_not_released() -> None:
    one = msgspec.structs.replace(segment(0.5, 2.0), words=engine_words((0.5, 1.0), (1.25, 2.0)))
    (found,) = Stitcher(keep_words=False).add(a_window(0, 60.0, 70.0), result(one))
    assert (found.text, found.words) == (" word", ())


times = st.floats(-5, 40) | st.just(math.nan)


@given(segments=st.lists(st.tuples(times, times, st.lists(st.tuples(times, times), max_size=5)), max_size=4))
def test_word_times_increase_and_stay_in_their_segment(
    segments: list[tuple[float, float, list[tuple[float, float]]]],
) -> None:
    given_segments = [
        msgspec.structs.replace(segment(start, end), words=engine_words(*words))
        for start, end, words in segments
    ]
    for found in Stitcher().add(a_window(0, 20.0, 38.5), result(*given_segments)):
        reached_s = found.start
        for word in found.words:
            assert reached_s <= word.start <= word.end <= found.end
            reached_s = word.end


def test_channels_are_merged_by_time() -> None:
    stitcher = Stitcher()
    question = result(segment(0, 2, " How are you?"), segment(6, 8, " Good."))
    answer = result(segment(0, 1, " Fine."), segment(4, 5, " You?"))
    released = stitcher.add(a_window(1, 2.5, 9, channel=1), answer)
    released += stitcher.add(a_window(0, 0, 9, channel=0), question)
    released += stitcher.add(a_window(2, 20, 22, channel=0), result(segment(0, 1, " Bye.")))
    assert [(one.channel, one.text) for one in released] == [
        (0, " How are you?"),
        (1, " Fine."),
        (0, " Good."),
        (1, " You?"),
    ]
    assert [one.text for one in stitcher.finish()] == [" Bye."]
    assert [one.id for one in stitcher.segments] == [0, 1, 2, 3, 4]


@given(
    speech=st.lists(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 25)), max_size=4), max_size=3),
    data=st.data(),
)
def test_channels_are_merged_by_time_in_any_order_of_arrival(
    speech: list[list[tuple[float, float]]], data: st.DataObject
) -> None:
    found = []
    for channel, pauses_and_lengths in enumerate(speech):
        at = 0.0
        for pause, length in pauses_and_lengths:
            found.append((at + pause, at + pause + length, channel))
            at += pause + length
    windows = [a_window(index, *window) for index, window in enumerate(sorted(found))]
    stitcher = Stitcher()
    released: list[Segment] = []
    for window in data.draw(st.permutations(windows)):
        released += stitcher.add(window, result(segment(0, 1), segment(2, 30)))
    released += stitcher.finish()
    assert released == stitcher.segments
    assert len(released) == 2 * len(windows)
    times = [one.start for one in released]
    assert times == sorted(times)
    for channel in range(3):
        own = [one for one in released if one.channel == channel]
        assert all(before.end <= after.start for before, after in itertools.pairwise(own))


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
        (["great 👍🏽", "thanks"], "great 👍🏽 thanks"),
        (["Привет,", "мир"], "Привет, мир"),
    ],
)
def test_texts_are_joined_as_their_script_requires(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined


def test_text_that_two_windows_share_appears_once() -> None:
    stitcher = Stitcher()
    said = result(segment(0, 10, " It was a dark night."), segment(14, 18.5, " The rain fell in torr"))
    assert [one.text for one in stitcher.add(a_window(0, 0, 20, shared=4), said)] == [" It was a dark night."]
    rest = result(segment(0, 4, " rain fell in torrents."))
    released = stitcher.add(a_window(1, 16, 30), rest)
    assert join_texts(one.text for one in released) == "The rain fell in torrents."
    assert [one.id for one in stitcher.segments] == [0, 1, 2]


def test_a_held_segment_is_released_by_an_empty_next_window() -> None:
    stitcher = Stitcher()
    assert stitcher.add(a_window(0, 0, 20, shared=2), result(segment(0, 20, " Hello there."))) == []
    assert [one.text for one in stitcher.add(a_window(1, 18, 30), result())] == [" Hello there."]


def test_a_held_segment_is_released_at_the_end() -> None:
    stitcher = Stitcher()
    stitcher.add(a_window(0, 0, 20, shared=2), result(segment(0, 20, " Hello there.")))
    assert [one.text for one in stitcher.finish()] == [" Hello there."]


def test_a_channel_without_held_segments_does_not_delay_others() -> None:
    stitcher = Stitcher()
    assert stitcher.add(a_window(0, 0, 20, channel=0, shared=2), result()) == []
    assert stitcher.add(a_window(1, 17, 26, channel=1), result(segment(0, 2, " second"))) == []
    released = (
        stitcher.add(a_window(2, 18, 30, channel=0), result(segment(4, 8, " first"))) + stitcher.finish()
    )
    assert [(one.channel, one.text) for one in released] == [(1, " second"), (0, " first")]


def test_a_held_segment_delays_later_ones_on_other_channels() -> None:
    stitcher = Stitcher()
    stitcher.add(a_window(0, 0, 20, channel=0, shared=2), result(segment(16, 20, " first")))
    assert stitcher.add(a_window(1, 14, 17, channel=1), result(segment(2.5, 3, " second"))) == []
    assert stitcher.add(a_window(2, 17, 26, channel=1), result()) == []
    again = result(segment(0, 2, " first"), segment(5, 6, " third"))
    released = stitcher.add(a_window(3, 18, 30, channel=0), again) + stitcher.finish()
    assert [one.text for one in released] == [" first", " second", " third"]
