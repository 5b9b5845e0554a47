"""Groups tokens into words with times. Pure.

An engine aligns text and audio token by token, by dynamic time warping over the decoder's cross-attention
(Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, and the reference code
that came with it). This module builds words from that alignment for all engines. The warping ignores pauses
and assigns each to the word before or after it; `settle` removes them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

__all__ = ["Pause", "Word", "goes_on", "settle", "timed_words"]

MAX_TOKENS_OF_A_CHARACTER = 6
"""No character takes more tokens; if these do not decode to text, more will not either."""
MIN_WORD_S = 0.04
"""The minimum length of a word, provided that its neighbours are long enough to spare it."""
CONTIGUOUS_S = 0.05
"""Words with no larger gap between them are contiguous."""

_UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "THAI", "LAO", "MYANMAR", "KHMER")
"""Scripts without spaces between words, by the first word of their letters' Unicode names."""
_CONTINUES = frozenset("ー々ゝゞヽヾゃゅょぁぃぅぇぉャュョァィゥェォッะาำๅๆฯะາຳຽໆຯ")
"""Letters that no word begins with."""
_BEFORE_CONSONANT = frozenset("เแโใไເແໂໃໄ\u1039\u17d2")
"""Vowels written before the consonant that they belong to, and marks that stack it (Burmese, Khmer)."""
_DASHES = frozenset("-\u2013\u2014")
"""After the end of a sentence, one of these begins what another person says."""
_UNDECODED = "\N{REPLACEMENT CHARACTER}"


class Word(NamedTuple):
    """A word with its punctuation and the space before it; times in seconds from the window's beginning."""

    text: str
    start: float
    end: float
    tokens: tuple[int, ...]
    probability: float = 1.0
    """The mean over its tokens."""


class Pause(NamedTuple):
    """A stretch without a voice; seconds from the window's beginning."""

    start: float
    end: float


class _Piece(NamedTuple):
    """Tokens that decode to whole characters."""

    text: str
    first: int
    last: int
    """The index after its last token."""


def timed_words(
    tokens: Sequence[int],
    times: Sequence[float],
    probabilities: Sequence[float],
    decode: Callable[[Sequence[int]], str],
    duration_s: float,
) -> list[Word]:
    """Return the words of a text in order; joined, they yield the text.

    Token `i` lasts from `times[i]` to `times[i + 1]`, in seconds; `decode` turns tokens into text. A word
    lasts from its first to its last spoken token, which excludes punctuation. Times never decrease, and lie
    within the window.
    """
    inside = [min(max(0.0, time_s), duration_s) for time_s in times]
    times = list(accumulate(inside, max))
    words = []
    for pieces in _words_of(list(_pieces(tokens, decode))):
        spoken = [piece for piece in pieces if _is_spoken(piece.text)] or pieces
        likely = [one for piece in spoken for one in probabilities[piece.first : piece.last]]
        words.append(
            Word(
                "".join(piece.text for piece in pieces),
                times[spoken[0].first],
                times[spoken[-1].last],
                tuple(tokens[pieces[0].first : pieces[-1].last]),
                min(max(0.0, sum(likely) / len(likely)), 1.0),
            )
        )
    return words


def settle(words: Sequence[Word], pauses: Sequence[Pause]) -> list[Word]:
    """Adjust the times of words so that none includes a pause, and none is without length if avoidable.

    Both arguments are in order and do not overlap. If a pause splits a word, the word keeps the longer side,
    and the other side goes to the neighbouring word if that is contiguous.
    """
    settled = list(words)
    for pause in pauses:
        for index, word in enumerate(settled):
            if word.start < pause.end and pause.start < word.end:
                _part(settled, index, pause)
    return _lengthened(settled)


def _lengthened(words: list[Word]) -> list[Word]:
    """Extend words that are too short into a gap or at the expense of a neighbour: every word takes time."""
    for index, word in enumerate(words):
        missing_s = MIN_WORD_S - (word.end - word.start)
        if missing_s <= 0:
            continue
        before = words[index - 1] if index else None
        behind = words[index + 1] if index + 1 < len(words) else None
        end, start = word.end + missing_s, word.start - missing_s
        if behind is not None and behind.end - end >= MIN_WORD_S:
            words[index] = word._replace(end=end)
            words[index + 1] = behind._replace(start=max(end, behind.start))
        elif before is not None and start - before.start >= MIN_WORD_S:
            words[index] = word._replace(start=start)
            words[index - 1] = before._replace(end=min(start, before.end))
    return words


def _part(words: list[Word], index: int, pause: Pause) -> None:
    """Remove a pause from a word that overlaps it."""
    word = words[index]
    before_s, behind_s = pause.start - word.start, word.end - pause.end
    if max(before_s, behind_s) < MIN_WORD_S:
        return  # nearly all of it is in the pause: the voice is too quiet to be told from it
    if behind_s > before_s:
        words[index] = word._replace(start=pause.end)
        if before_s > 0 and index and word.start - words[index - 1].end < CONTIGUOUS_S:
            words[index - 1] = words[index - 1]._replace(end=pause.start)
    else:
        words[index] = word._replace(end=pause.start)
        is_last = index == len(words) - 1
        if behind_s > 0 and not is_last and words[index + 1].start - word.end < CONTIGUOUS_S:
            words[index + 1] = words[index + 1]._replace(start=pause.end)


def _pieces(tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Iterator[_Piece]:
    """Group tokens into the smallest pieces of whole characters: a token may be part of one."""
    first = 0
    for last in range(1, len(tokens) + 1):
        text = decode(tokens[first:last])
        is_cut = _UNDECODED in text and last - first < MAX_TOKENS_OF_A_CHARACTER
        if is_cut and last < len(tokens):
            continue
        yield _Piece(text, first, last)
        first = last


def _words_of(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    word: list[_Piece] = []
    text = ""
    for place, piece in enumerate(pieces):
        if word and _begins_word(text, _up_to_letters(pieces, place)):
            yield word
            word, text = [], ""
        word.append(piece)
        text += piece.text
    if word:
        yield word


def _up_to_letters(pieces: Sequence[_Piece], place: int) -> str:
    """Return the text of a piece and, if that is only a mark, of what follows it without a space."""
    text = pieces[place].text
    for piece in islice(pieces, place + 1, None):
        if _is_spoken(text) or piece.text[:1].isspace():
            break
        text += piece.text
    return text


def _begins_word(before: str, after: str) -> bool:
    """Whether `after` begins a new word rather than continuing the word `before`."""
    if not after or not _is_spoken(before):
        return False
    if after[0].isspace():
        mark = after.strip()
        is_new_line = mark[:1] in _DASHES and not before[-1].isalnum()
        return not mark or _is_spoken(mark) or is_new_line or _opens(mark[0])
    last_letter = next(filter(str.isalnum, reversed(before)))
    return _is_new(last_letter, after[0])


def _is_new(last: str, first: str) -> bool:
    """Whether a word boundary without a space lies between two letters."""
    if not first.isalnum():
        return unicodedata.category(first) == "Ps" and unicodedata.east_asian_width(first) == "W"
    if not (_is_unspaced(last) or _is_unspaced(first)):
        return False
    return not goes_on(last, first)


def goes_on(last: str, first: str) -> bool:
    """Whether, in a script without spaces, no word can end between these two letters."""
    if first in _CONTINUES or last in _BEFORE_CONSONANT:
        return True
    return all(unicodedata.name(one, "").startswith("KATAKANA") for one in (last, first))


def _opens(mark: str) -> bool:
    """Whether a mark with a space before it belongs to the following word."""
    return mark in "\"'¿¡#$£€" or unicodedata.category(mark) in ("Ps", "Pi")


def _is_spoken(text: str) -> bool:
    return any(map(str.isalnum, text))


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)
