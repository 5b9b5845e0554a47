"""The partial text of an utterance while it is spoken: agreed words are never withdrawn."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.jobs.agreement import Agreement

words = st.lists(
    st.sampled_from(["And", "so", "my", "fellow", "fellow,", "Americans", "你", "好。", "don't"])
)


def shown(*hypotheses: str) -> list[tuple[str, str]]:
    agreement, found = Agreement(), []
    for hypothesis in hypotheses:
        agreement.add(hypothesis)
        found.append((agreement.agreed, agreement.tentative))
    return found


def test_two_successive_hypotheses_agree() -> None:
    assert shown("And so", "And so my fell", "And so my fellow Americans") == [
        ("", "And so"),
        ("And so", "my fell"),
        ("And so my", "fellow Americans"),
    ]


def test_agreement_needs_two_hypotheses_in_a_row() -> None:
    assert shown("ask not", "asked not", "ask not")[-1] == ("", "ask not")


def test_a_different_hypothesis_does_not_withdraw_agreed_words() -> None:
    assert shown("I scream now", "I scream now please", "ice cream now please do")[-1] == (
        "I scream now please",
        "do",
    )


def test_words_that_replace_all_agreed_ones_are_not_shown_next_to_them() -> None:
    assert shown("I scream", "I scream", "ice cream now")[-1] == ("I scream", "now")


def test_the_first_word_is_shown_after_silence() -> None:
    assert shown("", "", "so it", "so it")[-1] == ("so it", "")


@pytest.mark.parametrize(
    "changed",
    ["so my fellow Americans ask", "And And so my fellow Americans ask", "AND SO MY fellow Americans ask"],
)
def test_agreed_words_are_recognized_in_a_different_hypothesis(changed: str) -> None:
    agreed, tentative = shown("And so my fellow", "And so my fellow", changed)[-1]
    assert (agreed, tentative) == ("And so my fellow", "Americans ask")


def test_scripts_without_spaces_agree_character_by_character() -> None:
    assert shown("今天天", "今天天气很好。")[-1] == ("今天天", "气很好。")


def test_empty_hypotheses_show_no_text() -> None:
    assert shown("", "  ", "\n") == [("", "")] * 3
    assert shown("so it", "so it", "")[-1] == ("so it", "")


@given(st.lists(words, max_size=8))
def test_agreed_text_only_grows(hypotheses: Sequence[Sequence[str]]) -> None:
    agreement, before = Agreement(), ""
    for hypothesis in hypotheses:
        agreement.add(" ".join(hypothesis))
        assert agreement.agreed.startswith(before)
        before = agreement.agreed


@given(words, st.integers(1, 4))
def test_consistent_hypotheses_are_agreed_to_the_last_word(spoken: Sequence[str], step: int) -> None:
    agreement = Agreement()
    for end in [*range(step, len(spoken), step), len(spoken), len(spoken)]:
        agreement.add(" ".join(spoken[:end]))
    assert agreement.agreed.split() == list(spoken)
    assert agreement.tentative == ""
