"""Types that msgspec decodes in threads.

msgspec crashes the process if a thread decodes a type that another one has only half prepared. Two jobs that
a daemon resumed at the same moment ended it in this way.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from whisperd.decodable import _lock, decodable
from whisperd_testing import TESTS

SOURCES = [*(TESTS.parent / "src").rglob("*.py"), *(TESTS.parent / "plugins").glob("*/src/**/*.py")]

turns: list[bool] = []
"""Whether another thread got the turn to prepare a type."""


def number_type() -> type[int]:
    """Called when msgspec evaluates the annotation of `Outer`: when it is half prepared."""
    thread = threading.Thread(target=lambda: turns.append(_lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    return int


class Outer(msgspec.Struct):
    number: number_type()


def test_no_other_thread_decodes_a_type_that_is_half_prepared() -> None:
    assert msgspec.json.decode(b'{"number": 1}', type=decodable(Outer)) == Outer(1)
    assert turns == [False]


@pytest.mark.parametrize("kind", [Outer, list[Outer], Outer | None, dict[str, Outer], int])
def test_the_type_is_returned(kind: object) -> None:
    assert decodable(kind) is kind


def test_no_type_is_decoded_unprepared() -> None:
    assert [place for path in SOURCES for place in unprepared(path)] == []


def unprepared(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "msgspec.convert":
            kinds = node.args[1:2]
        elif called.startswith("msgspec.") and called.endswith(".Decoder"):
            kinds = node.args[:1] if path.name != "decodable.py" else []
        elif called.startswith("msgspec.") and called.endswith(".decode"):
            kinds = [keyword.value for keyword in node.keywords if keyword.arg == "type"]
        else:
            continue
        for kind in kinds:
            if not ast.unparse(kind).startswith("decodable("):
                yield f"{path}:{node.lineno}"
