"""`whisperctl completion`: print the shell script that completes commands, options and names."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from whisperd.cli.output import print_json

if TYPE_CHECKING:
    import argparse

    from whisperd.cli.parser import Parser

__all__ = ["add"]

SHELLS = ("bash", "zsh", "fish")


def add(parser: Parser) -> None:
    """Add the arguments."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(run=completion)


def completion(options: argparse.Namespace) -> None:
    """Print the script for a shell to evaluate."""
    script = (resources.files("whisperd.cli") / "shells" / options.shell).read_text("utf-8")
    if options.json:
        print_json({"shell": options.shell, "script": script})
    else:
        print(script, end="")
