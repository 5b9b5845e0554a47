"""The splitting of text into sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.worker.sentences import has_several_sentences, split_sentences
from whisperd.worker.words import Word


def spoken(text: str, seconds_a_word: float = 0.5) -> list[Word]:
    return [
        Word(f" {word}", index * seconds_a_word, (index + 1) * seconds_a_word, (index,))
        for index, word in enumerate(text.split())
    ]


def texts(sentences: list[list[Word]]) -> list[str]:
    return ["".join(word.text for word in sentence).strip() for sentence in sentences]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One two three. Four five six.", ["One two three.", "Four five six."]),
        ("Who was it then? Nobody knows that!", ["Who was it then?", "Nobody knows that!"]),
        ('He said "come here now." She did not come.', ['He said "come here now."', "She did not come."]),
        ("And Mr. John Dashwood had then leisure.", ["And Mr. John Dashwood had then leisure."]),
        ("It was J. F. Kennedy who spoke.", ["It was J. F. Kennedy who spoke."]),
        ("It rose by 3.5 percent in the year.", ["It rose by 3.5 percent in the year."]),
        ("He waited... and then he went away.", ["He waited... and then he went away."]),
        ("यह पहला वाक्य है। यह दूसरा वाक्य है।", ["यह पहला वाक्य है।", "यह दूसरा वाक्य है।"]),
        ("هل هذا هو البيت؟ نعم هذا هو.", ["هل هذا هو البيت؟", "نعم هذا هو."]),
        ("Das war es z.B. nicht allein.", ["Das war es z.B. nicht allein."]),
        ("Am 3. Oktober des Jahres 1990. Alle kamen.", ["Am 3. Oktober des Jahres 1990.", "Alle kamen."]),
        ("Nach dem 2. Weltkrieg kam er.", ["Nach dem 2. Weltkrieg kam er."]),
        ("3. Oktober des Jahres 1990. Alle kamen.", ["3. Oktober des Jahres 1990.", "Alle kamen."]),
        ("He was 45. Then he died.", ["He was 45.", "Then he died."]),
        ("And I am 45. She is younger.", ["And I am 45.", "She is younger."]),
        ('We met "Capt. Smith" and approx. 20 men.', ['We met "Capt. Smith" and approx. 20 men.']),
    ],
)
def test_sentences_end_where_a_reader_expects(text: str, sentences: list[str]) -> None:
    assert texts(split_sentences(spoken(text))) == sentences
    assert has_several_sentences(text) == (len(sentences) > 1)


def test_a_very_short_sentence_is_joined_with_the_next() -> None:
    assert texts(split_sentences(spoken("Yes. That is what I said.", 0.3))) == ["Yes. That is what I said."]


def test_scripts_without_spaces_are_split_as_well() -> None:
    assert has_several_sentences("你好。再见。")
    assert not has_several_sentences("你好。")


@given(st.lists(st.text("aB.?!… '", min_size=1, max_size=6), max_size=30))
def test_no_word_is_lost_or_moved(words: list[str]) -> None:
    spoken_words = [Word(text, index, index + 1, (index,)) for index, text in enumerate(words)]
    assert [word for sentence in split_sentences(spoken_words) for word in sentence] == spoken_words
