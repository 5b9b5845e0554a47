"""Words as readers see them, with times that are ordered, within the window, and outside pauses."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.words import MIN_WORD_S, Pause, Word, settle, timed_words


def words(*tokens: str | bytes, times: list[float] | None = None, duration_s: float = 100.0) -> list[Word]:
    """Return the words of these tokens, each of which lasts a second by default."""
    data = [token if isinstance(token, bytes) else token.encode() for token in tokens]

    def decode(numbers: list[int]) -> str:
        return b"".join(data[number] for number in numbers).decode(errors="replace")

    times = times if times is not None else [float(second) for second in range(len(tokens) + 1)]
    probabilities = [1 / (1 + number) for number in range(len(tokens))]
    return timed_words(range(len(tokens)), times, probabilities, decode, duration_s)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("And| so|,| my| fell|ow", "And| so,| my| fellow"),
        ("I| don|'t| know|.", "I| don't| know."),
        ("l|'|été| d|'|Anna", "l'été| d'Anna"),
        ("a| well|-|known| 3|.|5| %", "a| well-known| 3.5 %"),
        (' He| said|:| "|Hi|."|', ' He| said:| "Hi."'),
        ("See| (|foo|)| for| $|5", "See| (foo)| for| $5"),
        ("Quoi| ?| «| Oui| »| !", "Quoi ?| « Oui » !"),
        ("„|Ja|“|,| sagte| er", "„Ja“,| sagte| er"),
        ("¿|Qué|?| ¡|Sí|!", "¿Qué?| ¡Sí!"),
        ("Yes| -| no| —| well", "Yes -| no —| well"),
        ("-| Yes|.| ♪", "- Yes. ♪"),
        ("...| and", "... and"),
        ("said| -|Yes|,| ...|and| -|5", "said| -Yes,| ...and| -5"),
        ("-| Yes|.| -| No|.| \u2013| Why|?", "- Yes.| - No.| \u2013 Why?"),
        ("今日|は|、|プロ|グラム|「|東京|」|です|。|はい", "今日|は、|プログラム|「東京」|です。|はい"),
        ("人|々|2|0|24|年", "人々|2024|年"),
        ("你好|,|OpenAI|的|朋友", "你好,|OpenAI|的|朋友"),
        ("สวัส|ดี|เ|พื่|อน", "สวัส|ดี|เพื่|อน"),
        ("안녕|하세요| 여러|분", "안녕하세요| 여러분"),
        ("", ""),
    ],
)
def test_words_are_split_as_readers_expect(tokens: str, expected: str) -> None:
    found = words(*tokens.split("|"))
    assert [word.text for word in found] == expected.split("|")


def test_a_character_may_consist_of_several_tokens() -> None:
    found = words(b" caf", b"\xc3", b"\xa9", b" \xf0\x9f", b"\x98\x80", b" and")
    assert [(word.text, word.start, word.end) for word in found] == [(" café 😀", 0, 3), (" and", 5, 6)]
    assert [word.tokens for word in found] == [(0, 1, 2, 3, 4), (5,)]


def test_invalid_bytes_do_not_swallow_later_words() -> None:
    assert [word.text[-4:] for word in words(*[b"\xff"] * 6, b" and", b" so")] == [" and", " so"]


def test_a_words_time_excludes_punctuation() -> None:
    """Punctuation takes no time, whatever the alignment says; its probability does not count."""
    (first, second) = words('"', "Yes", ",", " no", times=[0, 0.5, 0.9, 3, 3.4])
    assert (first.text, first.start, first.end, first.probability) == ('"Yes,', 0.5, 0.9, 1 / 2)
    assert (second.start, second.end) == (3, 3.4)


texts = st.sampled_from([" a", "b", " 'c", "'", ",", " -", " ", "你", "好", "。", " «", "\ufffd", "カ", "12"])


@given(
    tokens=st.lists(texts, max_size=20),
    times=st.lists(st.floats(-5, 40), min_size=21, max_size=21),
    duration_s=st.floats(0.1, 30),
)
def test_no_token_is_lost_and_times_never_go_back(
    tokens: list[str], times: list[float], duration_s: float
) -> None:
    found = words(*tokens, times=times, duration_s=duration_s)
    assert "".join(word.text for word in found) == "".join(tokens)
    assert [token for word in found for token in word.tokens] == list(range(len(tokens)))
    check_order(found, duration_s)


def check_order(found: list[Word], duration_s: float) -> None:
    assert all(0 <= word.start <= word.end <= duration_s for word in found)
    assert all(one.end <= other.start for one, other in pairwise(found))


def spoken(*spans: tuple[float, float]) -> list[Word]:
    return [Word(f" {number}", start, end, (number,)) for number, (start, end) in enumerate(spans)]


@pytest.mark.parametrize(
    ("spans", "pause", "expected"),
    [
        ([(0, 1.0)], (0, 0.3), [(0.3, 1.0)]),
        ([(0, 1.0)], (0.8, 1.5), [(0, 0.8)]),
        ([(0, 1.0), (1.0, 3.0)], (1.2, 2.2), [(0, 1.2), (2.2, 3.0)]),
        ([(0, 3.0), (3.0, 4.0)], (1.5, 2.8), [(0, 1.5), (2.8, 4.0)]),
        ([(0, 3.0), (3.5, 4.0)], (1.5, 2.8), [(0, 1.5), (3.5, 4.0)]),
        ([(1.0, 1.2)], (0.5, 2.0), [(1.0, 1.2)]),
        ([(0, 1.0), (1.0, 1.0), (1.0, 2.0)], (3, 4), [(0, 1.0), (1.0, 1.04), (1.04, 2.0)]),
        ([(0, 1.0), (1.0, 1.0)], (3, 4), [(0, 0.96), (0.96, 1.0)]),
        ([(0, 1.0), (2.0, 2.0)], (1.0, 1.9), [(0, 1.0), (1.96, 2.0)]),
        ([(1.0, 1.0), (1.01, 2.0)], (3, 4), [(1.0, 1.04), (1.04, 2.0)]),
        ([(0, 1.0), (1.2, 1.2), (1.4, 2.0)], (3, 4), [(0, 1.0), (1.2, 1.24), (1.4, 2.0)]),
    ],
    ids=[
        "begin",
        "end",
        "of-the-one-before",
        "of-the-next",
        "nobodys",
        "a-low-voice",
        "short",
        "short-end",
        "short-behind-a-gap",
        "short-nearly-contiguous",
        "short-in-a-gap",
    ],
)
def test_words_do_not_extend_into_pauses(
    spans: list[tuple[float, float]], pause: tuple[float, float], expected: list[tuple[float, float]]
) -> None:
    found = settle(spoken(*spans), [Pause(*pause)])
    assert [time for word in found for time in (word.start, word.end)] == pytest.approx(
        [time for span in expected for time in span]
    )


moments = st.lists(st.floats(0, 30), max_size=16).map(sorted)


@given(of_words=moments, of_pauses=moments)
def test_settled_words_are_ordered_and_contain_no_pause(
    of_words: list[float], of_pauses: list[float]
) -> None:
    before = spoken(*zip(of_words[::2], of_words[1::2], strict=False))
    pauses = [Pause(*span) for span in zip(of_pauses[::2], of_pauses[1::2], strict=False)]
    found = settle(before, pauses)
    check_order(found, 30)
    assert [word.text for word in found] == [word.text for word in before]
    for word in found:
        for pause in pauses:
            both_sides = pause.start - word.start, word.end - pause.end
            assert not (min(both_sides) > MIN_WORD_S and pause.start < pause.end)
