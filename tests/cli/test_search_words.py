"""From the words that a shell passes to `search` to the query."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from whisperd.cli.commands.search import _player, query_of


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


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="needs a shell")
@pytest.mark.parametrize("name", ["my talk", "it's", "a\nb\x1b[2J\\n'\x85é.mp3"])
def test_a_command_that_plays_a_match_is_one_printable_line(name: str) -> None:
    line = _player(f"/talks/{name}", {"start": 1.5})
    assert line.isprintable()
    said = subprocess.run(
        ["bash", "-c", f'mpv() {{ printf %s "$*"; }}; {line}'], capture_output=True, check=True
    )
    assert said.stdout.decode() == f"--start=1.50 /talks/{name}"
