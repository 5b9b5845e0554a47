"""Live speech: where utterances end, and how often they are shown until then."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.audio.messages import SAMPLE_RATE
from whisperd.audio.speech import FRAME_SAMPLES
from whisperd.audio.utterances import END_SILENCE, LONGEST, Piece, UtteranceCutter

FRAMES_PER_S = SAMPLE_RATE / FRAME_SAMPLES
Sound = tuple[bool, float]
"""Whether somebody speaks, and for how many seconds."""


def listen(*sounds: Sound) -> list[Piece]:
    cutter = UtteranceCutter()
    pieces, total = [], 0
    for is_speech, seconds in sounds:
        for _ in range(round(seconds * FRAMES_PER_S)):
            total += FRAME_SAMPLES
            for piece in cutter.feed(0.9 if is_speech else 0.1, 0.5 if is_speech else 0.0):
                assert piece.end <= total
                pieces.append(piece)
            assert cutter.keep_from <= total
    return [*pieces, *cutter.finish(total)]


def seconds(pieces: Sequence[Piece]) -> list[tuple[float, float]]:
    return [(round(piece.start / SAMPLE_RATE, 1), round(piece.end / SAMPLE_RATE, 1)) for piece in pieces]


def final(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.is_final]


def test_an_utterance_ends_with_a_pause_and_is_shown_before() -> None:
    pieces = listen((False, 1.0), (True, 3.0), (False, 2.0), (True, 1.0), (False, 0.3))
    assert seconds(final(pieces)) == [(0.8, 4.2), (5.8, 7.2)]
    first = pieces[: pieces.index(final(pieces)[0])]
    assert [piece.is_final for piece in first] == [False] * 4
    assert all(before.end < after.end for before, after in itertools.pairwise(first))


def test_it_is_over_as_soon_as_the_pause_is_long_enough() -> None:
    cutter = UtteranceCutter()
    for _ in range(round(2 * FRAMES_PER_S)):
        list(cutter.feed(0.9, 0.5))
    silence = 0
    while not any(piece.is_final for piece in cutter.feed(0.1, 0.0)):
        silence += 1
    assert silence * FRAME_SAMPLES < END_SILENCE + SAMPLE_RATE // 10


def test_short_pauses_do_not_end_it() -> None:
    pieces = listen((True, 2.0), (False, 0.4), (True, 2.0), (False, 1.0))
    assert seconds(final(pieces)) == [(0.0, 4.6)]


def test_silence_and_clicks_are_nothing() -> None:
    assert listen((False, 60.0)) == []
    assert listen((False, 1.0), (True, 0.04), (False, 3.0)) == []


def test_who_does_not_pause_is_cut_at_the_longest_pause() -> None:
    pieces = listen((True, 6.0), (False, 0.5), (True, 6.0), (False, 0.2), (True, 9.0), (False, 1.0))
    ends = [end for _, end in seconds(final(pieces))]
    assert ends[0] in (6.2, 6.3)
    assert all(end - start <= 15 for start, end in seconds(final(pieces)))


def test_the_longest_pause_may_be_the_last_one() -> None:
    pieces = listen((True, 6.0), (False, 0.2), (True, 6.0), (False, 0.4), (True, 5.0), (False, 1.0))
    assert seconds(final(pieces)) == [(0.0, 12.4), (12.4, 17.8)]


def test_a_short_pause_is_divided_between_its_neighbours() -> None:
    first, second = final(listen((True, 6.0), (False, 0.2), (True, 10.0), (False, 1.0)))
    assert first.end == second.start
    assert seconds([first]) == [(0.0, 6.1)]


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 8.0)), max_size=12))
def test_all_that_is_spoken_is_in_exactly_one_utterance(sounds: list[Sound]) -> None:
    pieces = listen(*sounds)
    utterances = final(pieces)
    for before, after in itertools.pairwise(utterances):
        assert before.end <= after.start
    longest = LONGEST + 6 * SAMPLE_RATE  # what was spoken since the last place to cut comes on top
    assert all(0 < piece.end - piece.start <= longest for piece in pieces)
    at = 0
    for is_speech, length in sounds:
        frames = round(length * FRAMES_PER_S)
        if is_speech and frames >= 3:
            middle = at + frames * FRAME_SAMPLES // 2
            assert any(piece.start <= middle <= piece.end for piece in utterances)
        at += frames * FRAME_SAMPLES


def test_speech_without_any_pause_is_cut_without_losing_a_sample() -> None:
    utterances = final(listen((True, 40.0), (False, 1.0)))
    assert len(utterances) == 4
    assert all(before.end == after.start for before, after in itertools.pairwise(utterances))
    assert seconds(utterances)[0][0] == 0.0
    assert seconds(utterances)[-1][1] == 40.2


def test_in_a_pause_the_utterance_is_shown_once_as_it_would_be_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("whisperd.audio.utterances.END_SILENCE", 3 * SAMPLE_RATE)
    cutter, total = UtteranceCutter(), 0
    for is_speech, length in ((True, 1.0), (False, 2.9)):
        pieces = []
        for _ in range(round(length * FRAMES_PER_S)):
            total += FRAME_SAMPLES
            pieces += cutter.feed(0.9 if is_speech else 0.1, 0.5)
        assert [piece.is_likely_final for piece in pieces] == [not is_speech]
    likely, (over,) = pieces[0], cutter.finish(total)
    assert (likely.start, likely.end) == (over.start, over.end)


def test_an_hour_is_not_remembered() -> None:
    cutter, total, count = UtteranceCutter(), 0, 0
    for _ in range(450):
        for is_speech, length in ((True, 7.0), (False, 1.0)):
            for _ in range(round(length * FRAMES_PER_S)):
                total += FRAME_SAMPLES
                count += sum(piece.is_final for piece in cutter.feed(0.9 if is_speech else 0.1, 0.5))
                assert total - cutter.keep_from <= 20 * SAMPLE_RATE
                assert len(cutter._spans) <= 10
    assert count == 450
