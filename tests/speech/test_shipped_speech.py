"""The recordings that come with the program, and how a text is held against what is said in them."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.speech import samples, word_errors, words


def test_there_is_half_a_minute_of_speech_that_stays_small() -> None:
    assert 25 < sum(sample.duration_s for sample in samples()) < 40
    assert sum(len(sample.pcm) for sample in samples()) < 1_048_576
    assert [sample.duration_s for sample in samples()] == sorted(sample.duration_s for sample in samples())


def test_every_recording_is_loud_enough_and_has_its_text() -> None:
    for sample in samples():
        loudest = max(abs(value) for value in memoryview(sample.pcm).cast("h"))
        assert loudest > 5000, sample.name
        assert sample.language == "en"
        assert 1.5 < len(words(sample.text)) / sample.duration_s < 4, sample.name


@pytest.mark.parametrize(
    "text, errors",
    [
        ("He was not an ill-disposed young man.", 0),
        ("he was not an ill disposed young man", 0),
        ("He was not ill-disposed, young man.", 1),
        ("He was not an ill-disposed young man. Thank you.", 2),
        ("", 8),
    ],
)
def test_only_words_count(text: str, errors: int) -> None:
    assert word_errors("He was not an ill-disposed young man.", text) == errors


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=8).map(" ".join)


@given(WORDS, WORDS)
def test_errors_are_counted_as_everybody_does(reference: str, text: str) -> None:
    output = jiwer.process_words(reference, text)
    assert word_errors(reference, text) == output.substitutions + output.deletions + output.insertions
