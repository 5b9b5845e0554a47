"""The benchmarks can start: everything they import exists. Nothing is measured here."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks.run import MINUTES, parse

FOLDER = Path(__file__).parent.parent / "benchmarks"
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
OURS = re.compile(r"(whisperd|benchmarks)\b")


@pytest.mark.parametrize("name", MODULES)
def test_every_import_of_a_benchmark_exists(name: str) -> None:
    """Includes imports made only while measuring, and those of programs in string literals."""
    import_module(f"benchmarks.{name}")
    tree = ast.parse((FOLDER / f"{name}.py").read_text("utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    programs = [ast.parse(text) for text in texts if isinstance(text, str) and "\nimport " in text]
    for node in (node for part in (tree, *programs) for node in ast.walk(part)):
        if isinstance(node, ast.ImportFrom) and OURS.match(node.module or ""):
            assert names_of(str(node.module)) >= {alias.name for alias in node.names}


def names_of(module: str) -> set[str]:
    """Return the names that a module defines or imports, from its source: it may need a native library."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    names = set[str]()
    if spec.submodule_search_locations:
        names = {path.stem for path in Path(spec.origin).parent.iterdir()}
    for node in ast.walk(ast.parse(Path(spec.origin).read_text("utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
                names.update(alias.asname or alias.name for alias in aliases)
    return names


def test_every_benchmark_can_be_selected() -> None:
    functions = {name: getattr(import_module(f"benchmarks.{name}"), "measure", None) for name in MODULES}
    assert {name for name, measure in functions.items() if measure} == set(MINUTES)
    for measure in filter(None, functions.values()):
        inspect.signature(measure).bind("daemon", "audio")


@pytest.mark.parametrize("name", MODULES)
def test_a_short_run_is_short(name: str) -> None:
    """Every use of a repetition count goes through `rounds`, which applies the short number."""
    source = (FOLDER / f"{name}.py").read_text("utf-8")
    assert not re.findall(r"(?<!rounds\()\b(?:ROUNDS|REQUESTS|JOBS)\b(?! = )", source)


def test_benchmarks_are_selected_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse([]).names == list(MINUTES)
    options = parse(["idle", "watch", "--short", "--audio", "talks"])
    assert (options.names, options.short, options.audio) == (["idle", "watch"], True, Path("talks"))
    with pytest.raises(SystemExit) as ended:
        parse(["speed"])
    assert ended.value.code == 2 and "unknown measurement: speed" in capsys.readouterr().err
