"""How wide text is, and where it may be broken. Pure.

Width counts a letter of Chinese, Japanese or Korean as two (Unicode's East Asian Width), what combines
with the letter before it as none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

__all__ = ["clean", "pieces", "width"]

_OPENING = frozenset("([{\u2018\u201c\u3008\u300a\u300c\u300e\u3010\u3014\u3016\uff08\uff3b\uff5b")
"""No line ends with one of these."""
_WORD_LIKE = frozenset("Lo")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Text on one line, each gap one space, without control characters."""
    return " ".join(_CONTROL.sub("", text).split())


def width(text: str) -> int:
    """Columns that text takes."""
    return sum(map(_columns, text))


def pieces(text: str) -> Iterator[str]:
    """What no line break may divide, in order; joined, they are the text, each gap in front of its piece.

    A piece is a word between spaces, or a single letter of a script without spaces with the punctuation
    that belongs to it.
    """
    piece = ""
    for character in text:
        if piece and _may_break(piece[-1], character):
            yield piece
            piece = ""
        piece += character
    if piece:
        yield piece


def _may_break(before: str, after: str) -> bool:
    if before.isspace() or before in _OPENING:
        return False
    if after.isspace():
        return True
    # Between two ideographs, or an ideograph and a word; never before what closes or combines.
    is_letter = unicodedata.category(after) in _WORD_LIKE or after in _OPENING or after.isalnum()
    return is_letter and (_is_ideograph(before) or _is_ideograph(after))


def _is_ideograph(character: str) -> bool:
    """Whether it is of a script that is written without spaces: not Korean, which has them."""
    return _columns(character) == 2 and not unicodedata.name(character, "").startswith("HANGUL")


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
