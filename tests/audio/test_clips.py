"""Parts of a recording, as a person writes them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.clips import Clip, elapsed_within, parse_clips
from whisperd.rpc.errors import WhisperdError


@pytest.mark.parametrize(
    ("text", "clips"),
    [
        ("0:30-1:45; 2:00-2:15", [(30, 105), (120, 135)]),
        ("1:00-", [(60, None)]),
        ("-0:30", [(0, 30)]),
        ("90 - 100.5", [(90, 100.5)]),
        ("1:02:03.25-1:02:04,5", [(3723.25, 3724.5)]),
        ("0:10\u20130:20", [(10, 20)]),
        ("0:20-0:30;0:10-0:25;", [(10, 30)]),
        ("0:10-0:20\n0:20-0:30", [(10, 30)]),
        ("0:50-;0:10-0:20;0:55-1:00", [(10, 20), (50, None)]),
        ("0:50-;0:10-0:50", [(10, None)]),
        ("0-1;;2-3", [(0, 1), (2, 3)]),
        ("1-1.001; 3-3.001", [(1, 1.001), (3, 3.001)]),
    ],
)
def test_parts_are_read(text: str, clips: list[tuple[float, float | None]]) -> None:
    assert parse_clips(text) == tuple(Clip(*clip) for clip in clips)


@pytest.mark.parametrize(
    ("text", "faulty", "why"),
    [
        ("0:30-1:45; 2:00", "2:00", "needs one dash"),
        ("1-2-3", "1-2-3", "needs one dash"),
        ("0:30-0:20", "0:30-0:20", "ends before it begins"),
        ("0:30-0:30", "0:30-0:30", "is empty"),
        ("1-1.00001", "1-1.00001", "is empty"),
        ("0:10-0:20; 1:xx-2:00", "1:xx", "is not a time"),
        ("0:60-2:00", "0:60", "59 seconds"),
        ("1:60:00-2:30:00", "1:60:00", "59 minutes"),
        ("-", "-", "neither a start nor an end"),
        (";;", ";;", "names no part"),
        ("1e9-", "1e9", "is not a time"),
    ],
)
def test_a_bad_part_is_quoted_and_its_place_marked(text: str, faulty: str, why: str) -> None:
    with pytest.raises(WhisperdError) as caught:
        parse_clips(text)
    assert caught.value.code == "clips.invalid"
    assert caught.value.message.startswith(f"{faulty!r} ")
    assert why in caught.value.message
    start, end = caught.value.data["start"], caught.value.data["end"]
    assert faulty == text[start:end]
    assert caught.value.message.endswith(f": {text[:start]}>>{faulty}<<{text[end:]}")


@pytest.mark.parametrize("text", ["", "  \n "])
def test_no_part_at_all_is_refused(text: str) -> None:
    with pytest.raises(WhisperdError, match="no parts"):
        parse_clips(text)


def test_far_too_many_parts_are_refused() -> None:
    with pytest.raises(WhisperdError, match="more than 1000"):
        parse_clips(";".join(f"{n}-{n}.5" for n in range(1001)))


@given(st.text(alphabet="0123456789:.,-; \nx"))
def test_whatever_is_written_is_parts_in_order_or_one_error(text: str) -> None:
    try:
        clips = parse_clips(text)
    except WhisperdError as error:
        assert error.code == "clips.invalid"
        return
    assert clips
    assert all(clip.end is None or clip.start < clip.end for clip in clips)
    for before, after in itertools.pairwise(clips):
        assert before.end is not None
        assert before.end < after.start


def test_time_within_parts() -> None:
    clips = (Clip(10, 20), Clip(30, None))
    assert [elapsed_within(clips, at) for at in (0, 15, 25, 30, 35)] == [0, 5, 10, 10, 15]
    assert elapsed_within((), 7) == 7
