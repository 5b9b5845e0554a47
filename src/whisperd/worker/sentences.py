"""Splits text into sentences. Pure.

A window may contain several sentences; each becomes a separate segment, with the times of its words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from whisperd.worker.words import Word

__all__ = ["ends_clause", "ends_sentence", "has_several_sentences", "split_sentences"]

MIN_SENTENCE_S = 1.0
"""A shorter sentence is joined with the next, to avoid subtitles of a single "yes"."""

_ENDS = ".?!…。！？｡؟۔।॥։።፧။។៕།༎"
"""For Europe and East Asia, Arabic and Urdu, Hindi and its neighbours, Armenian, Amharic, Burmese, Khmer and
Tibetan."""
_CLAUSE_ENDS = ",;:–—，、；：،؛՝፣፤၊"
_CLOSERS = "\"'”’“»›)]」』）"
_END = re.compile(rf"[{_ENDS}]+ ?[{re.escape(_CLOSERS)}]*$")
_WIDE_END = re.compile("[。！？｡](?=.)")  # in scripts without spaces
# A full stop after these, or after a single letter, does not end a sentence.
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st jr sr vs etc inc ltd nr e.g i.e a.m p.m u.s u.k z.b d.h bzw usw".split()  # noqa: SIM905
)


def ends_sentence(text: str) -> bool:
    """Whether a text ends with a sentence-ending mark, optionally followed by quotation marks or brackets."""
    return _END.search(text.rstrip()) is not None


def ends_clause(text: str) -> bool:
    """Whether a text ends with a mark that ends a part of a sentence, such as a comma."""
    return text.rstrip(_CLOSERS + " ")[-1:] in set(_CLAUSE_ENDS)


def has_several_sentences(text: str) -> bool:
    """Whether a text has several sentences, so that the times of its words are worth computing."""
    words = text.split()
    ends = any(_ends_sentence(word, after) for word, after in pairwise(words))
    return ends or _WIDE_END.search(text.strip()) is not None


def split_sentences(words: Sequence[Word]) -> list[list[Word]]:
    """Group the words by sentence; no word is lost or reordered."""
    sentences: list[list[Word]] = [[]]
    for index, word in enumerate(words):
        sentences[-1].append(word)
        after = words[index + 1].text if index + 1 < len(words) else None
        long_enough = word.end - sentences[-1][0].start >= MIN_SENTENCE_S
        if after is not None and long_enough and _ends_sentence(word.text, after):
            sentences.append([])
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(word: str, after: str) -> bool:
    word, after = word.strip(), after.strip()
    if not ends_sentence(word) or after[:1].islower():
        return False
    stem = word.lower().rstrip("." + _CLOSERS)
    is_abbreviation = word.endswith(".") and (stem in _ABBREVIATIONS or (len(stem) == 1 and stem.isalpha()))
    return not is_abbreviation
