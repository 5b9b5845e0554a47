"""`whisperctl search`: find where something was said, in all stored transcripts."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import Any

from whisperd.cli import exit_status
from whisperd.cli.command import connect_as
from whisperd.cli.output import duration, local_time, print_json, printable
from whisperd.cli.parser import Parser, usage_error, whole_number
from whisperd.rpc.errors import WhisperdError

EXAMPLES = """examples:
  whisperctl search budget
  whisperctl search "next week" invoice*
  whisperctl search offer after:2026-03 lang:de path:interviews
  whisperctl search --open "the first train" """

_QUERY = re.compile(r'"|(^|\s)(before|after|lang):\S|\spath:\S')
"""Matches a quoted argument that is a query itself, not a phrase; a lone `path:` may contain spaces."""


def add(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="WORDS",
        help='words that must all occur, "a phrase", prefix*; before:DATE, after:DATE, lang:CODE, path:PART',
    )
    parser.add_argument("--open", action="store_true", help="print mpv commands that play the matches")
    parser.add_argument(
        "--limit",
        type=whole_number(1, 1000),
        default=50,
        metavar="N",
        help="maximum number of matches (default: 50)",
    )
    parser.epilog = EXAMPLES
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the matches, the best recording first. Raises `search.nothing` if there are none.

    With `--json`, the array is empty then, and the exit status is that of the error.
    """
    if options.open and options.json:
        raise usage_error("--open and --json cannot be combined", "Omit one of them")
    with connect_as(options) as client:
        found = client.transcripts.search(query_of(options.words), options.limit)
    if options.json:
        print_json(found)
        return exit_status.DONE if found else exit_status.NOT_FOUND
    if not found:
        raise WhisperdError(
            "search.nothing",
            "No stored transcript matches.",
            "Try fewer words, or a prefix: `whisperctl search transcri*`.",
        )
    if options.open:
        lines = [_player(one["path"], hit) for one in found if one["path"] for hit in one["hits"]]
        if not lines:
            raise WhisperdError(
                "search.nothing",
                "All matches are in recordings that were piped in, which no player can open.",
                "Omit --open to see the matches.",
            )
        print("\n".join(lines))
        return exit_status.DONE
    for number, one in enumerate(found):
        if number:
            print()
        _show(one)
    return exit_status.DONE


def query_of(words: list[str]) -> str:
    """Return the query to send. An argument quoted in the shell is a phrase, unless it is a query itself."""
    return " ".join(map(_term, words))


def _term(word: str) -> str:
    if _QUERY.search(word) or not any(map(str.isspace, word)):
        return word
    if word.startswith("path:"):
        return f'path:"{word.removeprefix("path:")}"'
    return f'"{word}"'


def _show(one: dict[str, Any]) -> None:
    details = ", ".join(
        filter(None, (local_time(one["created"]), one["language"], duration(one["duration"])))
    )
    print(f"{printable(one['path'] or 'standard input')}  ({details})")
    for hit in one["hits"]:
        context = (hit["before"], hit["text"], hit["after"])
        print(f"  {duration(hit['start']):>7}  {printable(' '.join(filter(None, context)))}")


def _player(path: str, hit: dict[str, Any]) -> str:
    return f"mpv --start={hit['start']:.2f} {_quoted(path)}"


def _quoted(path: str) -> str:
    """Quote a path for a shell, on one line and without the control characters that a name may contain."""
    if path.isprintable():
        return shlex.quote(path)
    escaped = path.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{''.join(one if one.isprintable() else _octal(one) for one in escaped)}'"


def _octal(one: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in one.encode())
