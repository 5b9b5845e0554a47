"""Splits text into sentences. Pure.

A window may contain several sentences; each becomes a separate segment, with the times of its words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from whisperd.worker.words import Word

__all__ = ["ends_clause", "ends_sentence", "has_several_sentences", "split_sentences"]

MIN_SENTENCE_S = 1.0
"""A shorter sentence is joined with the next, to avoid subtitles of a single "yes"."""

_ENDS = ".?!…。！？｡؟۔।॥։።፧။។៕།༎"
"""For Europe and East Asia, Arabic and Urdu, Hindi and its neighbours, Armenian, Amharic, Burmese, Khmer and
Tibetan."""
_CLAUSE_ENDS = ",;:–—，、；：،؛՝፣፤၊"
_CLOSERS = "\"'”’“»›)]」』）"
_OPENERS = "\"'(„“«"
_END = re.compile(rf"[{_ENDS}]+ ?[{re.escape(_CLOSERS)}]*$")
_WIDE_END = re.compile("[。！？｡](?=.)")  # in scripts without spaces
_ABBREVIATIONS = frozenset(
    """
    a.m approx bzw ca capt col d.h dr e.g etc gen gov hon i.e inc jr lt ltd mr mrs ms nr p.m prof rep rev sen
    sgt sr sra st u.k u.s usw vs z.b
    """.split()  # noqa: SIM905
)
_BEFORE_ORDINALS = frozenset(
    "ab am beim bis das dem den der des die im jede jeden jeder seit und vom zum zur".split()  # noqa: SIM905
)


def ends_sentence(text: str) -> bool:
    """Whether a text ends with a sentence-ending mark, optionally followed by quotation marks or brackets.

    A full stop after an abbreviation, an initial or an ordinal, as in "am 3. Oktober", ends none.
    """
    text = text.rstrip()
    if _END.search(text) is None:
        return False
    *before, stem = (word.strip("." + _OPENERS + _CLOSERS) for word in text.lower().split()[-3:])
    is_initial = len(stem) == 1 and stem.isalpha()
    return not (text.endswith(".") and (is_initial or stem in _ABBREVIATIONS or _is_ordinal(before, stem)))


def ends_clause(text: str) -> bool:
    """Whether a text ends with a mark that ends a part of a sentence, such as a comma."""
    return text.rstrip(_CLOSERS + " ")[-1:] in set(_CLAUSE_ENDS)


def has_several_sentences(text: str) -> bool:
    """Whether a text has several sentences, so that the times of its words are worth computing."""
    words = text.split()
    ends = any(_ends_sentence(" ".join(words[max(0, at - 3) : at]), words[at]) for at in range(1, len(words)))
    return ends or _WIDE_END.search(text.strip()) is not None


def split_sentences(words: Sequence[Word]) -> list[list[Word]]:
    """Group the words by sentence; no word is lost or reordered."""
    sentences: list[list[Word]] = [[]]
    for index, word in enumerate(words):
        sentence = sentences[-1]
        sentence.append(word)
        after = words[index + 1].text if index + 1 < len(words) else None
        long_enough = word.end - sentence[0].start >= MIN_SENTENCE_S
        if after is not None and long_enough:
            text = "".join(one.text for one in sentence[-3:])
            if _ends_sentence(text, after):
                sentences.append([])
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(text: str, after: str) -> bool:
    return ends_sentence(text) and not after.strip()[:1].islower()


def _is_ordinal(before: Sequence[str], stem: str) -> bool:
    """Whether a number before a full stop is a German ordinal, or numbers what follows it."""
    if len(stem) > 2 or not stem.isdecimal():
        return False
    return not before or (before[-1] in _BEFORE_ORDINALS and before != ["i", "am"])
