"""Write docs/commands.md from the parsers of `whisperctl`.

    python scripts/command_docs.py            # update the page (`make docs`)
    python scripts/command_docs.py --check    # fail if it is not current

The page is generated from the structure of the parsers, not from their formatted help, which differs between
versions of Python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from whisperd.cli.main import program
from whisperd.cli.parser import Parser

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"

INTRODUCTION = """\
# Commands

This page is generated from the program by `make docs`; `whisperctl COMMAND --help` prints the same.

Options and names may be mixed, and nothing may be abbreviated. After `--`, every word is a name, even if it
begins with a dash. Several names or files are processed in order: after a failure the command continues with
the next one, and exits with 1. It ends at once if the daemon is lost, with 3.

With `--json`, a command prints one JSON document to standard output and nothing else there. A request for one
thing is answered with an object, a request for several with an array of objects in the same order. An error
is `{"error": {"code", "message", "fix", "data"}}`; among several answers, the name it concerns is next to it.
If a command about several ends early, with Ctrl-C or because the daemon is lost, the array has the answers so
far.

| exit status | meaning |
| --- | --- |
| 0 | success |
| 1 | the work failed |
| 2 | wrong usage |
| 3 | the daemon cannot be reached or started |
| 4 | something that was named does not exist |
| 5 | refused: a rule forbids it |
| 130 | interrupted; work that the command started and did not detach is cancelled |
"""


def main() -> None:
    """Write the page, or check it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--check", action="store_true", help="fail if the page is not current")
    if not options.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.name} is not current: run `make docs`.")


def page() -> str:
    """Return the whole page."""
    parser = program()
    common = "\n".join(["## Options of every command", "", *_table(parser.common)])
    sections = [section for name in parser.commands for section in _sections(parser.command(name), level=2)]
    return "\n\n".join([INTRODUCTION.strip(), common, *sections]) + "\n"


def _sections(parser: Parser, level: int) -> Iterator[str]:
    lines = [f"{'#' * level} `{parser.prog}`", "", str(parser.description).partition("\n")[0], ""]
    lines += [f"    {parser.prog} {parser.synopsis}"]
    if parser.arguments:
        lines += ["", *_table(parser.arguments)]
    if parser.epilog and not parser.commands:
        lines += ["", *_examples(parser.epilog)]
    yield "\n".join(lines)
    for name in parser.commands:
        yield from _sections(parser.command(name), level + 1)


def _table(arguments: Sequence[argparse.Action]) -> Iterator[str]:
    yield from ("| | |", "| --- | --- |")
    for action in arguments:
        yield f"| {_cell(_names(action))} | {_cell(action.help or '')} |"


def _names(action: argparse.Action) -> str:
    """Return the names of an argument, such as `-o`, `--output FILE`; or `FILE...`."""
    value = _value(action)
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{' '.join(filter(None, (name, value)))}`" for name in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return f"{name}{'...' if action.nargs in ('+', '*') else ''}"


def _examples(epilog: str) -> Iterator[str]:
    title, *lines = epilog.splitlines()
    yield from (f"{title.capitalize()}", "")
    yield from (f"    {line.strip()}" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
