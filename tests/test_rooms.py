"""Rooms use each other through their front doors, as docs/architecture.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import whisperd

HOUSE = Path(whisperd.__file__).parent
OPEN = {room.parent.name for room in HOUSE.glob("*/__init__.py") if "__all__" not in room.read_text("utf-8")}
"""Rooms without a door: their modules are what others use."""
WIRING = {"daemon", "library", "testing"}


def imports(module: Path) -> Iterator[list[str]]:
    """The rest of what is imported from whisperd, as the parts of its name."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("whisperd."):
            yield str(node.module).split(".")[1:]


def test_nobody_comes_in_past_a_front_door() -> None:
    past = [
        f"{module.relative_to(HOUSE)} imports {'.'.join(name)}"
        for module in sorted(HOUSE.glob("*/**/*.py"))
        if (room := module.relative_to(HOUSE).parts[0]) not in WIRING
        for name in imports(module)
        if len(name) > 1 and name[0] not in {room, *OPEN}
    ]
    assert past == []
