"""What a person searches for, as a query of the data base. Pure.

Words have to be in a transcript, all of them: `budget meeting`. `"next week"` is a phrase, `transcri*` the
beginning of a word. `before:2026-03`, `after:2026-03-01`, `lang:de` and `path:interviews` or `path:*.mp3`
say which transcripts are looked at.
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
    """What is searched for; None where it does not matter."""

    match: str
    """An expression of FTS5."""
    before: str | None = None
    """RFC 3339, as is `after`: the transcript is older."""
    after: str | None = None
    """It is at least as new."""
    language: str | None = None
    path: str | None = None
    """A part of it, or with `*`, `?` or `[` a pattern for all of it."""


def parse_query(text: str) -> SearchQuery:
    """Read a query. Raises `WhisperdError` (`search.invalid`)."""
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
    """One line in which each letter of a script without spaces between words is a word, to be found by."""
    return _BETWEEN_LETTERS.sub("\u200b", _CONTROL.sub(" ", text)).strip()


def _word(text: str, *, is_prefix: bool) -> str | None:
    """A word or a phrase, so written that nothing in it means something to FTS5."""
    bare = searchable(text.rstrip("*") if is_prefix else text)
    if not any(map(str.isalnum, bare)):
        return None
    return '"{}"{}'.format(bare.replace('"', '""'), "*" if is_prefix else "")


def _moment(text: str) -> str:
    """The beginning of a year, month or day by the clock of this computer, in UTC."""
    try:
        if parts := _DATE.fullmatch(text):
            year, month, day = (int(part) if part else 1 for part in parts.groups())
            return to_rfc3339(datetime.datetime(year, month, day))
        return to_rfc3339(datetime.datetime.fromisoformat(text))
    except ValueError:
        raise _invalid(f"{text!r} is not a date", "Write it as 2026, 2026-03 or 2026-03-01") from None


def _language(text: str) -> str:
    """A language's code, also where its name is given."""
    if (code := language_code(text)) is None:
        raise _invalid(f"there is no language {text!r}", "Use a code such as en, de or zh")
    return code


def _invalid(reason: str, fix: str) -> WhisperdError:
    return WhisperdError("search.invalid", f"The search query is invalid: {reason}.", f"{fix}.")
