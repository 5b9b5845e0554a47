from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.timeline import MAX_GAP_S, MAX_SILENCE_S, Timeline

FRAME = SAMPLE_RATE // 50


def play(timestamps: list[float | None], origin_s: float = 0.0, duration_s: float = 0.0) -> list[int]:
    """Silence before each of these frames of 20 ms."""
    timeline, position, silences = Timeline(origin_s, duration_s), 0, []
    for timestamp in timestamps:
        silence = timeline.silence_before(timestamp, position)
        silences.append(silence)
        position += silence + FRAME
    return silences


def test_audio_that_follows_its_clock_is_left_alone() -> None:
    assert play([index * 0.02 for index in range(100)]) == [0] * 100


def test_rounded_timestamps_are_no_gaps() -> None:
    assert play([round(index * 0.02, 1) for index in range(100)]) == [0] * 100


def test_audio_that_begins_after_the_picture_is_preceded_by_silence() -> None:
    assert play([3.0, 3.02]) == [3 * SAMPLE_RATE, 0]


def test_the_time_line_begins_where_the_file_does() -> None:
    assert play([5.0, 5.02], origin_s=5.0) == [0, 0]


def test_a_hole_becomes_silence() -> None:
    assert play([0.0, 0.02, 2.04, 2.06]) == [0, 0, 2 * SAMPLE_RATE, 0]


def test_a_long_hole_is_believed_where_the_file_is_as_long() -> None:
    timestamps = [0.0, 0.02, 1800.0, 1800.02]
    assert play([*timestamps], duration_s=1801.0) == [0, 0, round(1799.96 * SAMPLE_RATE), 0]
    assert play([*timestamps], duration_s=1700.0) == play([*timestamps]) == [0, 0, 0, 0]


def test_pauses_of_more_than_an_hour_are_believed_where_the_file_is_as_long() -> None:
    timestamps = [600.0 * index for index in range(12)]
    pause = 600 * SAMPLE_RATE - FRAME
    assert play([*timestamps], duration_s=7000.0) == [0] + [pause] * 11
    assert play([*timestamps]) == [0] + [pause] * 6 + [0] * 5


def test_frames_without_timestamps_follow_each_other() -> None:
    assert play([None, None, None]) == [0, 0, 0]


def test_a_clock_set_back_or_leaping_far_moves_no_audio() -> None:
    assert play([0.0, 0.02, -700.0, -699.98, 1e9, 1e9 + 0.02, -1e9]) == [0] * 7


def test_timestamps_that_are_late_now_and_then_do_not_add_up() -> None:
    timestamps = [index * 0.02 + (0.5 if index % 10 == 9 else 0.0) for index in range(1000)]
    assert sum(play([*timestamps])) == SAMPLE_RATE // 2


def test_after_a_leap_holes_are_seen_again() -> None:
    assert play([0.0, 9000.0, 9000.02, 9002.04]) == [0, 0, 0, 2 * SAMPLE_RATE]


@given(st.lists(st.none() | st.floats(-1e12, 1e12)), st.floats(-1e3, 1e6))
def test_no_timestamps_make_more_silence_than_the_limit(
    timestamps: list[float | None], duration_s: float
) -> None:
    silences = play(timestamps, duration_s=duration_s)
    assert all(0 <= silence <= max(MAX_GAP_S, duration_s) * SAMPLE_RATE + 1 for silence in silences)
    assert sum(silences) <= max(MAX_SILENCE_S, duration_s) * SAMPLE_RATE + len(silences)
