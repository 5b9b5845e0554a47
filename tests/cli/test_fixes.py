"""Every command suggested in a message is valid as printed."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from whisperd.cli.main import program

SOURCES = Path(__file__).parent.parent.parent / "src" / "whisperd"
COMMAND = re.compile(r"`whisperctl ([^`]+)`")


def commands() -> Iterator[tuple[str, str]]:
    """Yield every command in backticks in a string other than a docstring, with `x` for each placeholder."""
    for path in sorted(SOURCES.rglob("*.py")):
        source = path.read_text("utf-8")
        if "whisperctl" not in source:  # walking through all other files would take long
            continue
        nodes = list(ast.walk(ast.parse(source)))
        docstrings = {
            id(node.body[0].value)
            for node in nodes
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values
                )
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            ):
                text = node.value
            else:
                continue
            for command in COMMAND.findall(text):
                yield path.name, command


@pytest.mark.parametrize(("where", "command"), sorted(set(commands())))
def test_a_suggested_command_is_valid(where: str, command: str) -> None:
    # Replace placeholders that must be valid: a format, and the noun in errors of runtimes and profiles.
    for filled_in, known in (("--format x", "--format srt"), ("xs ", "runtimes ")):
        command = command.replace(filled_in, known)
    words = shlex.split(command.partition(" < ")[0])
    if "--help" in words:
        words.remove("--help")
        words.append("--version")
        with pytest.raises(SystemExit):
            program().parse(words, argparse.Namespace())
    else:
        program().parse(
            words, argparse.Namespace(socket=None, json=False, no_start=False, quiet=False, verbose=False)
        )
