"""The choice among decoding attempts, and the segments made from the chosen one."""

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
    """Return the chosen attempt, and the temperatures of the retries."""
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
def test_doubted_results(
    text: str, logprob: float, no_speech_prob: float, is_endless: bool, bad: bool
) -> None:
    changes = {"no_speech_prob": no_speech_prob, "is_endless": is_endless}
    assert attempt(text, logprob, **changes).looks_bad is bad


def test_a_good_attempt_is_kept() -> None:
    first = attempt()
    assert tried(first, []) == (first, [])


def test_an_attempt_is_sure_from_a_probability_of_four_fifths_unless_it_looks_bad() -> None:
    assert attempt(logprob=-0.2).is_sure
    assert not attempt(logprob=-0.21).is_sure
    assert not attempt(logprob=math.nan).is_sure
    for text in (REPEATED, " Ask not. Ask not."):
        assert not attempt(text, logprob=-0.01).is_sure
    assert not attempt(logprob=-0.01, is_endless=True).is_sure
    assert not attempt(logprob=-0.01, tokens=()).is_sure


def test_a_text_that_was_cut_off_is_not_retried_but_reported() -> None:
    cut_off = attempt(logprob=-0.01, is_cut_off=True)
    assert not cut_off.is_sure
    assert tried(cut_off, []) == (cut_off, [])
    assert cut_off.result(("en", 1.0), 5.0).is_cut_off
    assert not attempt().result(("en", 1.0), 5.0).is_cut_off


def test_a_long_text_needs_a_higher_probability() -> None:
    assert attempt(logprob=-0.1, tokens=tuple(range(89))).is_sure
    assert not attempt(logprob=-0.1, tokens=tuple(range(90))).is_sure


def test_a_bad_attempt_is_retried_with_full_context_and_then_at_higher_temperatures() -> None:
    good = attempt()
    bad = attempt(logprob=-2.0)
    assert tried(bad, [good]) == (good, [0.0])
    assert tried(bad, [bad, good]) == (good, [0.0, 0.4])
    assert tried(bad, [good], had_full_context=True) == (good, [0.4])


def test_a_text_said_twice_is_retried_once_with_full_context() -> None:
    echo, once = attempt(" Ask not! Ask not."), attempt(" Ask not.")
    assert tried(echo, [once]) == (once, [0.0])
    assert tried(echo, [attempt(" Ask not. Ask not.")])[1] == [0.0], "the speaker did say it twice"
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
def test_an_echo_is_one_phrase_repeated(text: str, is_echo: bool) -> None:
    assert attempt(text).is_echo is is_echo


def test_of_bad_attempts_the_likeliest_without_a_loop_is_kept() -> None:
    circle = attempt(REPEATED, logprob=-0.1)
    guess, likelier = attempt(logprob=-3.0), attempt(logprob=-2.0)
    assert tried(circle, [guess, likelier, guess])[0] is likelier


def test_silence_has_no_segments() -> None:
    assert attempt(logprob=-1.5, no_speech_prob=0.9).segments(3.0) == ()
    assert attempt("  ").segments(3.0) == ()
    assert attempt(logprob=-1.5, no_speech_prob=0.1).segments(3.0) != ()


def test_each_sentence_is_a_segment_and_they_span_the_window() -> None:
    words = [Word(" One is here.", 0.3, 2.0, (1, 2)), Word(" Two is there.", 2.5, 4.4, (3,))]
    segments = attempt("".join(word.text for word in words), words=words).segments(5.0)
    assert [(one.start, one.end, one.text, one.tokens) for one in segments] == [
        (0.0, 2.0, " One is here.", (1, 2)),
        (2.5, 5.0, " Two is there.", (3,)),
    ]


def test_in_a_window_that_is_longer_than_its_speech_the_segments_are_not() -> None:
    one, two = Word(" One is here.", 4.0, 6.0, (1, 2)), Word(" Two is there.", 6.5, 8.4, (3,))
    (segment,) = attempt(one.text, words=[one]).segments(20.0)
    assert (segment.start, segment.end) == (3.8, 6.2)
    segments = attempt(one.text + two.text, words=[one, two]).segments(20.0)
    assert [(each.start, each.end) for each in segments] == [(3.8, 6.0), (6.5, 8.6)]


def timed(*said: tuple[str, float, float]) -> list[Word]:
    """Return the words of some sentences, evenly spread over the time of each."""
    words = []
    for text, start, end in said:
        parts = text.split()
        step = (end - start) / len(parts)
        words += [
            Word(f" {part}", start + place * step, start + (place + 1) * step, (len(part),))
            for place, part in enumerate(parts)
        ]
    return words


def texts(words: list[Word]) -> list[str]:
    """Return the texts of the segments that these words of a window of 20 s become."""
    whole = "".join(word.text for word in words)
    return [one.text.strip() for one in attempt(whole, words=words).segments(20.0)]


def test_an_end_said_again_when_there_is_no_time_left_is_dropped() -> None:
    key, do = ("It opens every door.", 2.0, 4.0), ("Why do you want to know?", 16.0, 18.0)
    again = "why do you want to know"
    assert texts(timed(key, do, (again, 19.98, 20.0))) == [key[0], do[0]]
    assert texts(timed(key, do, (f"{again} {again}", 19.98, 20.0))) == [key[0], do[0]]
    assert texts(timed(key, do, (f"{key[0]} {do[0]}", 19.8, 20.0))) == [key[0], do[0]]
    assert texts(timed(do, (again, 19.98, 20.0))) == [do[0]]
    (segment,) = attempt(words=timed(do, (again, 19.9, 20.0))).segments(20.0)
    assert (segment.end, segment.tokens, len(segment.words)) == (18.2, (3, 2, 3, 4, 2, 5), 6)


def test_what_was_said_twice_stays() -> None:
    know = ("Why do you want to know?", 14.0, 16.0)
    assert texts(timed(know, (know[0], 18.8, 20.0))) == [know[0], know[0]]
    assert texts(timed(("Never, never!", 14.0, 16.0), ("No. No.", 16.0, 16.05)))[-1] == "No. No."
    assert texts(timed(know, ("I want to know.", 19.98, 20.0))) == [know[0], "I want to know."]


def test_word_times_lie_within_their_segment() -> None:
    words = [Word(" One is here.", -0.1, 2.0, (1, 2), 0.5), Word(" Two is there.", 2.5, 5.4, (3,), 0.25)]
    found = attempt("".join(word.text for word in words), words=words)
    timed = [word for one in found.segments(5.0) for word in one.words]
    assert [(word.text, word.start, word.end) for word in timed] == [
        (" One is here.", 0.0, 2.0),
        (" Two is there.", 2.5, 5.0),
    ]


@given(st.text())
def test_any_text_has_a_compression_ratio(text: str) -> None:
    assert (attempt(text).compression_ratio > 0) == bool(text)


def test_an_infinite_log_probability_is_replaced() -> None:
    (segment,) = attempt(logprob=float("-inf")).segments(1.0)
    assert segment.avg_logprob == -99.0
