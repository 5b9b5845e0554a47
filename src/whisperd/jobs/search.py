"""Turns a user's search text into a database query. Pure.

A transcript must contain all of the words: `budget meeting`. `"next week"` is a phrase, `transcri*` the
beginning of a word. `before:2026-03`, `after:2026-03-01`, `lang:de` and `path:interviews` or `path:*.mp3`
limit which transcripts are searched.
"""

from __future__ import annotations

import datetime
import re
from typing import Final, NamedTuple

from whisperd.clock import to_rfc3339
from whisperd.jobs.languages import language_code
from whisperd.rpc.errors import WhisperdError

__all__ = ["SearchQuery", "parse_query", "searchable"]

_TERM = re.compile(
    r'(?:(?P<key>before|after|lang|path):)?(?:"(?P<quoted>[^"]*)"?|(?P<plain>[^\s"]+))(?P<star>\*)?'
)
_EMPTY_FILTERS: Final = ("before:", "after:", "lang:", "path:")
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_BETWEEN_LETTERS = re.compile(rf"(?<=[{_UNSPACED}])(?=\S)|(?<=\S)(?=[{_UNSPACED}])")
_CONTROL = re.compile("[\x00-\x1f\x7f]+")


class SearchQuery(NamedTuple):
    """A parsed query; None where there is no restriction."""

    match: str
    """An FTS5 expression."""
    before: str | None = None
    """RFC 3339, like `after`: only older transcripts."""
    after: str | None = None
    """Only transcripts at least this new."""
    language: str | None = None
    path: str | None = None
    """A part of the path or, with `*`, `?` or `[`, a pattern for the whole path."""


def parse_query(text: str) -> SearchQuery:
    """Parse a query. Raises `WhisperdError` (`search.invalid`)."""
    words: list[str] = []
    filters: dict[str, str] = {}
    for term in _TERM.finditer(text):
        value = term["quoted"] if term["quoted"] is not None else term["plain"]
        match term["key"]:
            case None if value in _EMPTY_FILTERS and term["quoted"] is None:
                raise _invalid(
                    f"{value} has no value", "Write the value directly after the colon, without a space"
                )
            case None:
                is_prefix = bool(term["star"]) or (term["quoted"] is None and value.endswith("*"))
                if word := _word(value, is_prefix=is_prefix):
                    words.append(word)
            case "before" | "after" as key:
                filters[key] = _moment(value)
            case "lang":
                filters["language"] = _language(value)
            case "path":
                filters["path"] = value + (term["star"] or "")
    if not words:
        raise _invalid("it contains no word", "Add a word that was spoken")
    return SearchQuery(" ".join(words), **filters)


def searchable(text: str) -> str:
    """Return the text to index: one line in which each character of a script without spaces is a word."""
    return _BETWEEN_LETTERS.sub("\u200b", _CONTROL.sub(" ", text)).strip()


def _word(text: str, *, is_prefix: bool) -> str | None:
    """Return a word or phrase, quoted so that FTS5 takes it literally; None if it has no letters."""
    bare = searchable(text.rstrip("*") if is_prefix else text)
    if not any(map(str.isalnum, bare)):
        return None
    return '"{}"{}'.format(bare.replace('"', '""'), "*" if is_prefix else "")


def _moment(text: str) -> str:
    """Return the beginning of a year, month or day in this computer's time zone, as UTC."""
    try:
        if parts := _DATE.fullmatch(text):
            year, month, day = (int(part) if part else 1 for part in parts.groups())
            return to_rfc3339(datetime.datetime(year, month, day))
        return to_rfc3339(datetime.datetime.fromisoformat(text))
    except ValueError:
        raise _invalid(f"{text!r} is not a date", "Write it as 2026, 2026-03 or 2026-03-01") from None


def _language(text: str) -> str:
    """Return the code of a language given as a code or a name."""
    if (code := language_code(text)) is None:
        raise _invalid(f"there is no language {text!r}", "Use a code such as en, de or zh")
    return code


def _invalid(reason: str, fix: str) -> WhisperdError:
    return WhisperdError("search.invalid", f"The search query is invalid: {reason}.", f"{fix}.")
