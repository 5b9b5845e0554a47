"""Where a line of text may break. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from whisperd.jobs.segments import is_chinese_or_japanese, on_one_line
from whisperd.text_width import text_width
from whisperd.worker.words import goes_on

__all__ = ["clean", "divided", "pieces"]

_OPENING = frozenset("([{\u2018\u201c\u3008\u300a\u300c\u300e\u3010\u3014\u3016\uff08\uff3b\uff5b")
"""No line ends with one of these."""
_OPENING_ALONE = frozenset("\u00ab\u2039")
_CLOSING_ALONE = frozenset("!?;:%\u20ac\u00bb\u203a")
"""French puts a space after the former and before the latter; no line breaks there."""


def clean(text: str) -> str:
    """Return text on one line, each gap a single space, without control characters."""
    return " ".join(on_one_line(text).split())


def pieces(text: str) -> Iterator[str]:
    """Yield the pieces of a text that no line break may divide; joined, they are the text. A gap belongs to
    the next piece.

    A piece is a word between spaces, or a single character of a script without spaces, with its punctuation.
    """
    start = 0
    for at in range(1, len(text)):
        if _may_break(text, at):
            yield text[start:at]
            start = at
    if text:
        yield text[start:]


def divided(piece: str, columns: int) -> Iterator[str]:
    """Yield a piece in parts that fit a line of this many columns.

    An indivisible piece may be longer than a line, above all in Thai, which has no spaces.
    """
    start = end = 0
    for at in range(1, len(piece) if text_width(piece) > columns else 0):
        if piece[at].isalnum() and not goes_on(piece[at - 1], piece[at]):
            end = at
        if end > start and text_width(piece[start : at + 1].lstrip()) > columns:
            yield piece[start:end]
            start = end
    yield piece[start:]


def _may_break(text: str, at: int) -> bool:
    before, after = text[at - 1], text[at]
    if before.isspace() or before in _OPENING:
        return False
    if after.isspace():
        return not (_is_alone(text, at - 1, _OPENING_ALONE) or _is_alone(text, at + 1, _CLOSING_ALONE))
    # Between two ideographs, or an ideograph and a word; never before closing or combining characters.
    if not (is_chinese_or_japanese(before) or is_chinese_or_japanese(after)):
        return False
    return after in _OPENING or (after.isalnum() and not goes_on(before, after))


def _is_alone(text: str, at: int, marks: frozenset[str]) -> bool:
    """Whether one of these marks is here, with no letter or digit next to it."""
    beside = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
    return text[at : at + 1] in marks and not any(map(str.isalnum, beside))
