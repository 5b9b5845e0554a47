"""Rooms import each other only through their front doors, as docs/architecture.md demands."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import whisperd

HOUSE = Path(whisperd.__file__).parent
DOORS = {
    *("audio", "calibration", "client", "doctor", "hardware", "library", "models", "natives", "outputs"),
    *("runtimes", "speech", "store", "watch"),
}
"""Rooms with a front door. The modules of the other rooms are imported directly."""
WIRING = {"daemon", "library", "testing"}


def imports(module: Path) -> Iterator[list[str]]:
    """Yield the modules imported from whisperd, as the parts of their names after `whisperd`."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (name.split(".")[1:] for name in names if name.startswith("whisperd."))


def test_exactly_these_rooms_have_a_front_door() -> None:
    rooms = HOUSE.glob("*/__init__.py")
    assert {room.parent.name for room in rooms if "__all__" in room.read_text("utf-8")} == DOORS


def test_no_import_bypasses_a_front_door() -> None:
    past = [
        f"{module.relative_to(HOUSE)} imports {'.'.join(name)}"
        for module in sorted(HOUSE.rglob("*.py"))
        if (room := module.relative_to(HOUSE).parts[0]) not in WIRING
        for name in imports(module)
        if len(name) > 1 and name[0] in DOORS - {room}
    ]
    assert past == []


def imported_when_run(node: ast.AST) -> Iterator[str]:
    """Yield the names that a module imports when it runs, also later: not those for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imported_when_run(child)


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    paths = {path.relative_to(HOUSE.parent).with_suffix(""): path for path in HOUSE.rglob("*.py")}
    modules = {".".join(name.parts).removesuffix(".__init__"): path for name, path in paths.items()}
    graph = {
        name: {
            imported if imported in modules else imported.rpartition(".")[0]
            for imported in imported_when_run(ast.parse(path.read_text("utf-8")))
        }
        for name, path in modules.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules
