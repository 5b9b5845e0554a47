"""How many columns a text takes, on a terminal or in a subtitle. Pure.

Chinese, Japanese and Korean characters take two (Unicode's East Asian Width); those that combine with the
previous character, or are invisible, take none.
"""

from __future__ import annotations

__all__ = ["text_width"]


def text_width(text: str) -> int:
    """Return the number of columns of a text."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    import unicodedata  # most output of whisperctl is ASCII

    if unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
