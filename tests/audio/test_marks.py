"""Places from which a file can be decoded again: where they lie, and what proves the sound there."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.known_speech import merge_found
from whisperd.audio.marks import (
    MARK_EVERY,
    PROVEN,
    WARM_UP,
    Mark,
    Marker,
    Proof,
    can_be_marked,
    last_mark,
    unpack_marks,
)
from whisperd.audio.messages import SAMPLE_RATE, Found

SOUND = random.Random(1).randbytes(70 * SAMPLE_RATE)
"""A byte for each sample: what a sample is does not matter here."""


class Block:
    """A block of one channel, as far as it is asked here; in the decoder it is a numpy array."""

    def __init__(self, sound: bytes) -> None:
        self._sound = sound
        self.shape = (1, len(sound))

    def __getitem__(self, key: tuple[slice, slice]) -> Block:
        return Block(self._sound[key[1]])

    @property
    def T(self) -> Block:
        return self

    def tobytes(self) -> bytes:
        return self._sound


def digest(sound: bytes, first: int, block: int) -> bytes | None:
    proof = Proof(first)
    for position in range(first, len(sound), block):
        if found := proof.feed(Block(sound[position : position + block]), position):
            return found
    return None


@given(first=st.integers(0, 40 * SAMPLE_RATE), blocks=st.lists(st.integers(300, 100_000), min_size=2))
def test_a_proof_is_the_same_however_large_blocks_are(first: int, blocks: list[int]) -> None:
    assert len({digest(SOUND, first, block) for block in blocks}) == 1


@given(st.data(), st.integers(0, 40 * SAMPLE_RATE))
def test_a_proof_tells_another_sound(data: st.DataObject, first: int) -> None:
    at = data.draw(st.integers(first + WARM_UP, first + PROVEN - 1))
    other = SOUND[:at] + bytes([SOUND[at] ^ 1]) + SOUND[at + 1 :]
    assert digest(other, first, 4096) != digest(SOUND, first, 4096)


@given(st.data(), st.integers(0, 40 * SAMPLE_RATE))
def test_a_codec_may_take_a_moment_until_it_is_in_full_swing(data: st.DataObject, first: int) -> None:
    at = data.draw(st.integers(first, first + WARM_UP - 1))
    other = SOUND[:at] + b"?" + SOUND[at + 1 :]
    assert digest(other, first, 4096) == digest(SOUND, first, 4096)


def test_where_nothing_is_heard_nothing_is_proven() -> None:
    silence = bytes(PROVEN)
    assert digest(silence, 0, 4096) is None
    marker = Marker()
    marker.begin(Mark(0, 0, 0, 0.0, 0.0))
    marker.feed(Block(silence), 0)
    assert marker.take() == b""
    assert marker.wants(MARK_EVERY)


def test_what_was_heard_after_a_seek_that_led_elsewhere_is_forgotten() -> None:
    marker = Marker()
    marker.begin(Mark(0, 0, MARK_EVERY, 0.0, 0.0))
    marker.feed(Block(SOUND[:PROVEN]), MARK_EVERY)
    marker.begin(Mark(0, 0, 2 * MARK_EVERY, 0.0, 0.0))
    marker.forget()
    assert marker.take() == b""
    assert marker.wants(MARK_EVERY)


@pytest.mark.parametrize(
    ("container", "codec", "can"),
    [
        ("wav", "pcm_s16le", True),
        ("mp3", "mp3float", True),
        ("matroska,webm", "opus", True),
        ("mov,mp4,m4a,3gp,3g2,mj2", "aac", False),
        ("ogg", "opus", False),
        ("mpegts", "mp3float", False),
    ],
)
def test_only_what_is_the_same_each_time_is_marked(container: str, codec: str, can: bool) -> None:
    assert can_be_marked(container, codec) == can


def test_what_ends_too_soon_proves_nothing() -> None:
    assert digest(SOUND, len(SOUND) - PROVEN + 1, 4096) is None
    assert digest(SOUND, len(SOUND) - PROVEN, 4096) is not None


def marks_of(block: int, first: int = 0) -> list[Mark]:
    """The marks of a file that is decoded from a sample on."""
    marker, marks = Marker(), b""
    for position in range(first, len(SOUND), block):
        if marker.wants(position):
            marker.begin(Mark(position * 3, 0, position, 0.25, 1.5))
        marker.feed(Block(SOUND[position : position + block]), position)
        marks += marker.take()
    assert marker.take() == b""
    return list(unpack_marks(marks))


@given(st.integers(300, 100_000), st.integers(0, 30 * SAMPLE_RATE))
def test_marks_are_made_all_along(block: int, first: int) -> None:
    marks = marks_of(block, first)
    assert marks
    assert all(MARK_EVERY <= mark.position <= len(SOUND) - PROVEN for mark in marks)
    assert all(later.position - mark.position >= MARK_EVERY for mark, later in pairwise(marks))
    for mark in marks:
        assert mark == Mark(
            mark.position * 3, 0, mark.position, 0.25, 1.5, digest(SOUND, mark.position, 999) or b""
        )


def found(position: int, channel: int = 0, marks: Any = ()) -> Found:
    marker = Marker()
    for place in marks:
        marker._proven.append(Mark(0, 0, place, 0.0, 0.0, bytes(16)))
    return Found(part=0, channel=channel, position=position, spans=b"", memory=b"", marks=marker.take())


def test_all_that_is_needed_lies_behind_the_proof_of_the_last_mark() -> None:
    told = merge_found([found(500_000, marks=[320_000]), found(900_000, marks=[640_000, 800_000])])
    for needed, expected in (
        (0, None),
        (320_000 + PROVEN - 1, None),
        (320_000 + PROVEN, 320_000),
        (640_000 + PROVEN, 640_000),
        (10**9, 800_000),
    ):
        mark = last_mark(told, needed)
        assert (mark.position if mark else None) == expected


def test_nobody_has_listened_to_what_lies_behind_on_one_of_the_channels() -> None:
    told = merge_found([found(900_000, marks=[320_000, 640_000]), found(650_000, channel=1)])
    mark = last_mark(told, 10**9)
    assert mark is not None and mark.position == 320_000
    assert last_mark([], 10**9) is None
