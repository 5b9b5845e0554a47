"""Small helpers shared by the tests of the store."""

from __future__ import annotations

from pathlib import Path

from whisperd.progress import Progress


def ignore(progress: Progress) -> None:
    pass


def left_in_staging(root: Path) -> list[Path]:
    return list((root / ".staging").glob("*"))
