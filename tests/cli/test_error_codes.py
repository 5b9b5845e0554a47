"""The interface page documents every error code of the program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
from test_exit_status import documented

from whisperd.daemon.methods import METHODS
from whisperd.rpc import events

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[a-z]+\.[a-z_]+")
EVENTS = {one.__struct_config__.tag for one in vars(events).values() if isinstance(one, msgspec.StructMeta)}
NAMES = """
    events.missed live.begin live.feed live.end decoder.processes decoder.ln decoder.positional_embedding
    config.json config.toml daemon.json daemon.lock daemon.log model.bin task.xml
    memory.current memory.events memory.high memory.limit_in_bytes memory.max memory.oom_control memory.stat
    memory.usage_in_bytes
"""
"""Other texts of the same form: an event, decoder methods, a setting, tensors and files."""


def texts(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield the text of a string literal, or the code of a constructed error, and whether it is a code."""
    match node:
        case ast.Constant(value=str(text)):
            yield text, False
        case ast.Call(func=ast.Name(id="WhisperdError"), args=[ast.Constant(value=str(text)), *_]):
            yield text, True


@cache
def codes() -> dict[str, str]:
    """Return texts in the form of codes and their files, if they are codes or share a code's noun."""
    nouns = {code.partition(".")[0] for code in documented()}
    return {
        text: path.name
        for folder in ("src", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for text, is_code in texts(node)
        if CODE.fullmatch(text) and (is_code or text.partition(".")[0] in nouns)
    }


def test_every_code_is_documented() -> None:
    known = documented().keys() | METHODS.keys() | EVENTS | set(NAMES.split())
    assert {code: where for code, where in codes().items() if code not in known} == {}


def test_every_documented_code_exists() -> None:
    assert documented().keys() - codes().keys() == set()
