"""From the words that a shell passes to `search` to the query."""

from __future__ import annotations

import pytest

from whisperd.cli.commands.search import query_of


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (["budget", "invoice*"], "budget invoice*"),
        (["next week", "invoice*"], '"next week" invoice*'),
        (['"next week" invoice*'], '"next week" invoice*'),
        (["offer", "lang:de", "path:my talks"], 'offer lang:de path:"my talks"'),
        (["offer lang:de after:2026-03"], "offer lang:de after:2026-03"),
        (["after:2026-03 offer"], "after:2026-03 offer"),
    ],
)
def test_a_quoted_word_stays_one_phrase_unless_it_is_a_query(words: list[str], query: str) -> None:
    assert query_of(words) == query
