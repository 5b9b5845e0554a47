"""What is made of what an engine decoded: which attempt is kept, and the segments of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.attempts import Attempt, improve
from whisperd.worker.words import Word

REPEATED = " again and again" * 40


def attempt(text: str = " Hello.", logprob: float = -0.2, **changes: object) -> Attempt:
    fields = {
        "tokens": (1, 2),
        "text": text,
        "temperature": 0.0,
        "avg_logprob": logprob,
        "no_speech_prob": 0.0,
        "is_endless": False,
    }
    return Attempt(**{**fields, **changes})  # type: ignore[arg-type]


def tried(
    first: Attempt, later: list[Attempt], *, had_full_context: bool = False
) -> tuple[Attempt, list[float]]:
    """What is kept, and at which temperatures it was tried again."""
    asked: list[float] = []

    def decode(temperature: float) -> Attempt:
        asked.append(temperature)
        return later[len(asked) - 1]

    return improve(first, (0.0, 0.4, 0.8), decode, had_full_context=had_full_context), asked


@pytest.mark.parametrize(
    ("text", "logprob", "no_speech_prob", "is_endless", "bad"),
    [
        (" Hello.", -0.3, 0.0, False, False),
        (" Hello.", -0.3, 0.99, False, False),
        (REPEATED, -0.1, 0.0, False, True),
        (" Hello.", -0.3, 0.0, True, True),
        (" Hello.", -1.2, 0.0, False, True),
        (" Hello.", -1.2, 0.9, False, False),
        (" Hello.", math.nan, 0.0, False, True),
        (" Hello.", math.nan, 0.9, False, True),
        ("", -math.inf, 0.9, False, False),
    ],
)
def test_results_that_are_doubted(
    text: str, logprob: float, no_speech_prob: float, is_endless: bool, bad: bool
) -> None:
    changes = {"no_speech_prob": no_speech_prob, "is_endless": is_endless}
    assert attempt(text, logprob, **changes).looks_bad is bad


def test_what_looks_good_is_kept() -> None:
    first = attempt()
    assert tried(first, []) == (first, [])


def test_the_model_is_sure_of_what_it_believes_with_four_fifths_and_does_not_look_bad() -> None:
    assert attempt(logprob=-0.2).is_sure
    assert not attempt(logprob=-0.21).is_sure
    assert not attempt(logprob=math.nan).is_sure
    for text in (REPEATED, " Ask not. Ask not."):
        assert not attempt(text, logprob=-0.01).is_sure
    assert not attempt(logprob=-0.01, is_endless=True).is_sure
    assert not attempt(logprob=-0.01, tokens=()).is_sure


def test_of_a_long_text_the_model_has_to_be_surer() -> None:
    assert attempt(logprob=-0.1, tokens=tuple(range(89))).is_sure
    assert not attempt(logprob=-0.1, tokens=tuple(range(90))).is_sure


def test_a_bad_one_is_tried_with_the_full_context_and_then_warmer() -> None:
    good = attempt()
    bad = attempt(logprob=-2.0)
    assert tried(bad, [good]) == (good, [0.0])
    assert tried(bad, [bad, good]) == (good, [0.0, 0.4])
    assert tried(bad, [good], had_full_context=True) == (good, [0.4])


def test_what_is_all_said_twice_is_heard_once_more_with_the_full_context() -> None:
    echo, once = attempt(" Ask not! Ask not."), attempt(" Ask not.")
    assert tried(echo, [once]) == (once, [0.0])
    assert tried(echo, [attempt(" Ask not. Ask not.")])[1] == [0.0], "then somebody has said it"
    assert tried(echo, [attempt(logprob=-2.0)]) == (echo, [0.0])
    assert tried(echo, [], had_full_context=True) == (echo, [])


@pytest.mark.parametrize(
    ("text", "is_echo"),
    [
        (" Bye-bye!", True),
        (" No. No, no.", True),
        (" 谢谢。谢谢。", True),
        (" Ask not. Ask now.", False),
        (" I", False),
        (" ...", False),
        ("", False),
    ],
)
def test_an_echo_is_one_piece_again_and_again(text: str, is_echo: bool) -> None:
    assert attempt(text).is_echo is is_echo


def test_of_bad_ones_the_likeliest_that_is_no_circle_is_kept() -> None:
    circle = attempt(REPEATED, logprob=-0.1)
    guess, likelier = attempt(logprob=-3.0), attempt(logprob=-2.0)
    assert tried(circle, [guess, likelier, guess])[0] is likelier


def test_silence_has_no_segments() -> None:
    assert attempt(logprob=-1.5, no_speech_prob=0.9).segments(3.0) == ()
    assert attempt("  ").segments(3.0) == ()
    assert attempt(logprob=-1.5, no_speech_prob=0.1).segments(3.0) != ()


def test_each_sentence_is_a_segment_from_the_beginning_to_the_end_of_the_window() -> None:
    words = [Word(" One is here.", 0.3, 2.0, (1, 2)), Word(" Two is there.", 2.5, 4.4, (3,))]
    segments = attempt("".join(word.text for word in words), words=words).segments(5.0)
    assert [(one.start, one.end, one.text, one.tokens) for one in segments] == [
        (0.0, 2.0, " One is here.", (1, 2)),
        (2.5, 5.0, " Two is there.", (3,)),
    ]


def test_the_words_of_a_segment_lie_within_it() -> None:
    words = [Word(" One is here.", -0.1, 2.0, (1, 2), 0.5), Word(" Two is there.", 2.5, 5.4, (3,), 0.25)]
    found = attempt("".join(word.text for word in words), words=words)
    timed = [word for one in found.segments(5.0) for word in one.words]
    assert [(word.text, word.start, word.end) for word in timed] == [
        (" One is here.", 0.0, 2.0),
        (" Two is there.", 2.5, 5.0),
    ]


@given(st.text())
def test_a_ratio_of_compression_can_be_had_of_any_text(text: str) -> None:
    assert (attempt(text).compression_ratio > 0) == bool(text)


def test_a_likelihood_of_nothing_can_be_written() -> None:
    (segment,) = attempt(logprob=float("-inf")).segments(1.0)
    assert segment.avg_logprob == -99.0
