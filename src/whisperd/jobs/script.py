"""How wide text is, and where it may be broken. Pure.

Width counts a letter of Chinese, Japanese or Korean as two (Unicode's East Asian Width), what combines
with the letter before it as none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from whisperd.jobs.segments import is_unspaced, on_one_line
from whisperd.worker.words import goes_on

__all__ = ["clean", "divided", "pieces", "width"]

_OPENING = frozenset("([{\u2018\u201c\u3008\u300a\u300c\u300e\u3010\u3014\u3016\uff08\uff3b\uff5b")
"""No line ends with one of these."""
_OPENING_ALONE = frozenset("\u00ab\u2039")
_CLOSING_ALONE = frozenset("!?;:%\u20ac\u00bb\u203a")
"""French has a space behind the former, and before the latter: no line is broken there."""


def clean(text: str) -> str:
    """Text on one line, each gap one space, without control characters."""
    return " ".join(on_one_line(text).split())


def width(text: str) -> int:
    """Columns that text takes."""
    return sum(map(_columns, text))


def pieces(text: str) -> Iterator[str]:
    """What no line break may divide, in order; joined, they are the text, each gap in front of its piece.

    A piece is a word between spaces, or a single letter of a script without spaces with the punctuation
    that belongs to it.
    """
    start = 0
    for at in range(1, len(text)):
        if _may_break(text, at):
            yield text[start:at]
            start = at
    if text:
        yield text[start:]


def divided(piece: str, columns: int) -> Iterator[str]:
    """A piece in parts that fit on a line of so many columns.

    What no line break may divide can be longer than a line, above all in Thai, which has no spaces.
    """
    start = end = 0
    for at in range(1, len(piece) if width(piece) > columns else 0):
        if piece[at].isalnum() and not goes_on(piece[at - 1], piece[at]):
            end = at
        if end > start and width(piece[start : at + 1].lstrip()) > columns:
            yield piece[start:end]
            start = end
    yield piece[start:]


def _may_break(text: str, at: int) -> bool:
    before, after = text[at - 1], text[at]
    if before.isspace() or before in _OPENING:
        return False
    if after.isspace():
        return not (_is_alone(text, at - 1, _OPENING_ALONE) or _is_alone(text, at + 1, _CLOSING_ALONE))
    # Between two ideographs, or an ideograph and a word; never before what closes or combines.
    if not (is_unspaced(before) or is_unspaced(after)):
        return False
    return after in _OPENING or (after.isalnum() and not goes_on(before, after))


def _is_alone(text: str, at: int, marks: frozenset[str]) -> bool:
    """Whether there is one of these marks, and no letter or figure is next to it."""
    beside = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
    return text[at : at + 1] in marks and not any(map(str.isalnum, beside))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
