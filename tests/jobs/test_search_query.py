"""Search queries: any user input becomes a valid database query or an error."""

from __future__ import annotations

import datetime
import errno
import sqlite3
from contextlib import closing
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.jobs.search import SearchQuery, parse_query, searchable
from whisperd.rpc.errors import WhisperdError


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("budget", '"budget"'),
        ("budget meeting", '"budget" "meeting"'),
        ('"next week" invoice*', '"next week" "invoice"*'),
        ('"next we"*', '"next we"*'),
        ("AND OR NOT NEAR(a)", '"AND" "OR" "NOT" "NEAR(a)"'),
        ('it"s', '"it" "s"'),
        ("- budget !", '"budget"'),
        ("会議", '"会\u200b議"'),
        ("text:budget", '"text:budget"'),
        ('"path:"', '"path:"'),
    ],
)
def test_words(text: str, match: str) -> None:
    assert parse_query(text) == SearchQuery(match)


def test_filters() -> None:
    query = parse_query(
        'offer lang:German path:"my notes" after:2026-03-01T00:00:00Z before:2026-04-01T02:00:00+02:00'
    )
    assert query == SearchQuery(
        '"offer"',
        before="2026-04-01T00:00:00.000Z",
        after="2026-03-01T00:00:00.000Z",
        language="de",
        path="my notes",
    )
    year, month, day = (parse_query(f"a after:{text}").after for text in ("2026", "2026-01", "2026-01-01"))
    assert year == month == day


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        '""',
        "- !",
        "lang:de",
        "a lang:",
        "a path: b",
        "a lang:xx",
        "a after:yesterday",
        "a before:2026-13",
        "a after:99999",
    ],
)
def test_invalid_searches_are_refused(text: str) -> None:
    with pytest.raises(WhisperdError) as raised:
        parse_query(text)
    assert raised.value.code == "search.invalid"


def test_a_date_that_windows_cannot_convert_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class LongAgo(datetime.datetime):
        def astimezone(self, _zone: datetime.tzinfo | None = None) -> NoReturn:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(datetime, "datetime", LongAgo)
    with pytest.raises(WhisperdError) as raised:
        parse_query("a after:1960")
    assert raised.value.code == "search.invalid"


@given(st.text(max_size=40), st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_input_is_valid_for_sqlite(text: str, said: str) -> None:
    try:
        match = parse_query(text).match
    except WhisperdError:
        return
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE texts USING fts5 (text)")
        connection.execute("INSERT INTO texts VALUES (?)", (searchable(said),))
        if not any("\ud800" <= one <= "\udfff" for one in match):
            connection.execute("SELECT * FROM texts WHERE texts MATCH ?", (match,)).fetchall()


@given(st.text(st.sampled_from("ab 会議は\n\x02é"), max_size=20))
def test_indexed_text_has_no_control_characters(text: str) -> None:
    line = searchable(text)
    assert not {"\n", "\x02", "\x03"} & set(line)
    assert line.replace("\u200b", "").split() == text.replace("\x02", " ").split()
