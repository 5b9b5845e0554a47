"""The engine's rules: the context of a window, doubted results, and votes on the language."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.rules import (
    FRAMES_PER_SECOND,
    FULL_CONTEXT_FRAMES,
    MAX_PROMPT_TOKENS,
    common_context_frames,
    context_frames,
    elect,
    goes_in_circles,
    has_quiet_edges,
    is_silence,
    text_before,
    token_limit,
)

durations = st.floats(0.01, 30)


@given(durations)
def test_a_context_covers_the_speech_and_a_margin(duration_s: float) -> None:
    frames = context_frames(duration_s)
    assert frames <= FULL_CONTEXT_FRAMES
    assert frames == FULL_CONTEXT_FRAMES or frames >= (duration_s + 1) * FRAMES_PER_SECOND
    assert frames == 1200 or frames - duration_s * FRAMES_PER_SECOND < 5 * FRAMES_PER_SECOND, (
        "more would only cost time"
    )


@given(st.floats(0.01, 8))
def test_short_windows_have_a_context_of_twelve_seconds(duration_s: float) -> None:
    assert context_frames(duration_s) == common_context_frames(duration_s) == 1200


@pytest.mark.parametrize(("duration_s", "frames"), [(9.0, 1300), (9.9, 1400), (10.0, 1200), (11.0, 1300)])
def test_windows_under_ten_seconds_have_a_larger_margin(duration_s: float, frames: int) -> None:
    assert context_frames(duration_s) == frames


@given(durations, durations)
def test_a_longer_window_never_has_less_context(one_s: float, other_s: float) -> None:
    one_s, other_s = sorted((one_s, other_s))
    if other_s < 10 or one_s >= 10:  # short windows have a larger margin
        assert context_frames(one_s) <= context_frames(other_s)
        assert common_context_frames(one_s) <= common_context_frames(other_s)


@given(durations, st.none() | st.floats(0, 30))
def test_a_common_context_covers_the_windows_own(duration_s: float, margin_s: float | None) -> None:
    own, common = context_frames(duration_s, margin_s), common_context_frames(duration_s, margin_s)
    assert own <= common <= FULL_CONTEXT_FRAMES
    assert common - own < 200 or common == FULL_CONTEXT_FRAMES


def test_common_contexts_are_few() -> None:
    common = {common_context_frames(length_ms / 1000) for length_ms in range(10, 30_000, 10)}
    assert common == {1200, 1400, 1600, FULL_CONTEXT_FRAMES}


@given(durations, st.floats(0, 30))
def test_a_measured_margin_overrides_the_default(duration_s: float, margin_s: float) -> None:
    frames = context_frames(duration_s, margin_s)
    assert frames == FULL_CONTEXT_FRAMES or frames >= (duration_s + margin_s) * FRAMES_PER_SECOND
    assert context_frames(duration_s, 30.0) == FULL_CONTEXT_FRAMES
    assert context_frames(duration_s, 2.0) == context_frames(duration_s)


@given(durations, durations)
def test_a_longer_window_may_have_more_text(one_s: float, other_s: float) -> None:
    assert token_limit(max(one_s, other_s)) >= token_limit(min(one_s, other_s))
    assert token_limit(one_s) > 8 * one_s, "eight tokens a second are fast speech"


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "silent"),
    [(0.9, -1.5, True), (0.9, -0.5, False), (0.1, -1.5, False), (0.9, math.nan, False)],
)
def test_silence_is_accepted_only_with_unlikely_words(
    no_speech_prob: float, avg_logprob: float, silent: bool
) -> None:
    assert is_silence(no_speech_prob, avg_logprob) is silent


def test_a_group_has_one_language() -> None:
    guesses = [{"en": 0.9, "de": 0.1}, {"en": 0.2, "de": 0.8}, {"fr": 1.0}]
    elected = elect(guesses, [(0, 1.0), (0, 9.0), (1, 5.0)])
    assert [language for language, _ in elected] == ["de", "de", "fr"], "the longer window has more weight"
    assert elected[0][1] == pytest.approx(0.73)


@given(st.data())
def test_groups_vote_independently(data: st.DataObject) -> None:
    languages = st.sampled_from(["en", "de", "fr"])
    guess = st.dictionaries(languages, st.floats(0, 1), min_size=1)
    voters = data.draw(st.lists(st.tuples(st.integers(0, 3), durations), max_size=8))
    guesses = [data.draw(guess) for _ in voters]
    elected = elect(guesses, voters)
    assert len(elected) == len(voters)
    for group in {group for group, _ in voters}:
        mine = [index for index, (other, _) in enumerate(voters) if other == group]
        alone = elect([guesses[index] for index in mine], [voters[index] for index in mine])
        assert [elected[index] for index in mine] == alone
        assert len(set(alone)) == 1
        assert 0 <= alone[0][1] <= 1 + 1e-9


def test_the_language_is_one_of_those_given() -> None:
    guesses = [{"pl": 0.7, "es": 0.2, "en": 0.1}]
    (elected,) = elect(guesses, [(0, 2.0)], ("en", "es"))
    assert elected == ("es", pytest.approx(2 / 3)), "its probability among the given languages"
    (unheard,) = elect(guesses, [(0, 2.0)], ("ja", "zh"))
    assert unheard == ("ja", 0.5)


def test_a_window_of_length_zero_does_not_divide_by_zero() -> None:
    assert elect([{"en": 1.0}], [(0, 0.0)])[0][0] == "en"


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        ([], False),
        (range(100), False),
        ([7] * 11, False),
        ([7] * 12, True),
        ([*range(80), *[7] * 12, *range(80, 160)], True),
        ([1, 2, 3] * 3, False),
        ([1, 2, 3] * 4, True),
        ([*range(20)] * 3, False),
        ([*range(20)] * 4, True),
        ([1, 2, 3, 4, 5] * 2 + [6] + [1, 2, 3, 4, 5] * 2, False),
    ],
)
def test_a_loop_is_found_anywhere_in_the_text(tokens: Sequence[int], loop: bool) -> None:
    assert goes_in_circles(2.4, tokens) is loop
    assert goes_in_circles(2.5, tokens)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_long_hotwords_lose_their_end_and_long_prompts_their_beginning(words: int, text: int) -> None:
    hotwords, prompt = list(range(words)), list(range(1000, 1000 + text))
    before = text_before(hotwords, prompt)
    first, last = [one for one in before if one < 1000], [one for one in before if one >= 1000]
    assert before == [*first, *last]
    assert first == hotwords[: len(first)] and last == prompt[text - len(last) :]
    assert len(before) == min(MAX_PROMPT_TOKENS, words + text)
    assert len(first) >= min(words, MAX_PROMPT_TOKENS // 2)
    assert len(last) >= min(text, MAX_PROMPT_TOKENS // 2)


def test_only_a_window_that_is_longer_than_its_speech_has_quiet_edges() -> None:
    assert has_quiet_edges((), 20.0)
    assert has_quiet_edges(((1.2, 19.8),), 20.0)
    assert has_quiet_edges(((0.2, 5.0), (6.0, 18.8)), 20.0)
    assert not has_quiet_edges(((0.2, 5.0), (8.0, 19.8)), 20.0)
    assert not has_quiet_edges(None, 20.0), "unknown"
