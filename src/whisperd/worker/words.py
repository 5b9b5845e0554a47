"""Words as people read them, with their times. Pure.

An engine aligns text and sound token by token: by dynamic time warping over the attention that the decoder
pays to the sound (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, and the
reference code that came with it). What is made of that is the same for all engines. The warping knows no
pauses, and gives each to the word before or behind it; `settle` takes them out again.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

__all__ = ["Pause", "Word", "goes_on", "settle", "timed_words"]

MAX_TOKENS_OF_A_CHARACTER = 6
"""No character takes more; what is no text after so many never becomes one."""
MIN_WORD_S = 0.04
"""No word is shorter, where its neighbours are long enough to give it that much."""
CONTIGUOUS_S = 0.05
"""So near to each other, one word begins where the other ends."""

_UNSPACED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "THAI", "LAO", "MYANMAR", "KHMER")
"""Scripts without spaces between words, by the first word of their letters' names."""
_CONTINUES = frozenset("ー々ゝゞヽヾゃゅょぁぃぅぇぉャュョァィゥェォッะาำๅๆฯะາຳຽໆຯ")
"""Letters with which no word begins."""
_BEFORE_CONSONANT = frozenset("เแโใไເແໂໃໄ")
"""Vowels that are written before the consonant they belong to."""
_UNDECODED = "\N{REPLACEMENT CHARACTER}"


class Word(NamedTuple):
    """A word with its punctuation and the space before it; times in seconds from the window's beginning."""

    text: str
    start: float
    end: float
    tokens: tuple[int, ...]
    probability: float = 1.0
    """Mean of its tokens'."""


class Pause(NamedTuple):
    """A stretch without a voice; seconds from the window's beginning."""

    start: float
    end: float


class _Piece(NamedTuple):
    """Tokens that are whole characters."""

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
    """The words of a text, in order; joined, they are the text.

    Token `i` lasts from `times[i]` to `times[i + 1]`, in seconds; `decode` makes text of tokens. A word lasts
    from the first to the last of its tokens that are spoken, which punctuation is not. Times never go back,
    and lie within the window.
    """
    inside = [min(max(0.0, time_s), duration_s) for time_s in times]
    times = list(accumulate(inside, max))
    words = []
    for pieces in _words_of(_pieces(tokens, decode)):
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
    """The same words, none of them lasting through a pause, nor no time at all if that can be helped.

    Both are in order and do not overlap. Where there is sound on both sides of a pause within a word, the
    word is the longer of them, and the rest is of its neighbour, if that is next to it.
    """
    settled = list(words)
    for pause in pauses:
        for index, word in enumerate(settled):
            if word.start < pause.end and pause.start < word.end:
                _part(settled, index, pause)
    return _lengthened(settled)


def _lengthened(words: list[Word]) -> list[Word]:
    """Give a word without a length some of the word next to it: each takes time to say."""
    for index, word in enumerate(words):
        missing_s = MIN_WORD_S - (word.end - word.start)
        if missing_s <= 0:
            continue
        before = words[index - 1] if index else None
        behind = words[index + 1] if index + 1 < len(words) else None
        if behind is not None and behind.start == word.end and _can_spare(behind, missing_s):
            words[index] = word._replace(end=word.end + missing_s)
            words[index + 1] = behind._replace(start=word.end + missing_s)
        elif before is not None and before.end == word.start and _can_spare(before, missing_s):
            words[index] = word._replace(start=word.start - missing_s)
            words[index - 1] = before._replace(end=word.start - missing_s)
    return words


def _can_spare(word: Word, length_s: float) -> bool:
    return word.end - word.start >= MIN_WORD_S + length_s


def _part(words: list[Word], index: int, pause: Pause) -> None:
    """Take a pause out of a word that lasts into it."""
    word = words[index]
    before_s, behind_s = pause.start - word.start, word.end - pause.end
    if max(before_s, behind_s) < MIN_WORD_S:
        return  # nearly all of it is in the pause: a voice too low to be told from it
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
    """The fewest tokens at a time that are whole characters: a token may be a part of one."""
    first = 0
    for last in range(1, len(tokens) + 1):
        text = decode(tokens[first:last])
        is_cut = _UNDECODED in text and last - first < MAX_TOKENS_OF_A_CHARACTER
        if is_cut and last < len(tokens):
            continue
        yield _Piece(text, first, last)
        first = last


def _words_of(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    word: list[_Piece] = []
    text = ""
    for piece in pieces:
        if word and _begins_word(text, piece.text):
            yield word
            word, text = [], ""
        word.append(piece)
        text += piece.text
    if word:
        yield word


def _begins_word(before: str, after: str) -> bool:
    """Whether `after` is no part of the word that is `before` it."""
    if not after or not _is_spoken(before):
        return False
    if after[0].isspace():
        mark = after.strip()
        return not mark or _is_spoken(mark) or _opens(mark[0])
    last_letter = next(filter(str.isalnum, reversed(before)))
    return _is_new(last_letter, after[0])


def _is_new(last: str, first: str) -> bool:
    """Whether a word ends with one letter, and the next one begins with the other, without a space."""
    if not first.isalnum():
        return unicodedata.category(first) == "Ps" and unicodedata.east_asian_width(first) == "W"
    if not (_is_unspaced(last) or _is_unspaced(first)):
        return False
    return not goes_on(last, first)


def goes_on(last: str, first: str) -> bool:
    """Whether no word of a script without spaces can end with one letter where the next one is the other."""
    if first in _CONTINUES or last in _BEFORE_CONSONANT:
        return True
    return all(unicodedata.name(one, "").startswith("KATAKANA") for one in (last, first))


def _opens(mark: str) -> bool:
    """Whether a mark with a space before it belongs to what follows it."""
    return mark in "\"'¿¡#$£€" or unicodedata.category(mark) in ("Ps", "Pi")


def _is_spoken(text: str) -> bool:
    return any(map(str.isalnum, text))


def _is_unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)
