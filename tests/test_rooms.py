"""Rooms import each other only through their front doors, as docs/architecture.md demands."""

from __future__ import annotations

import ast
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
