"""Reading small files, as detection does: what cannot be read is simply not there."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ReadFile", "read_file"]

ReadFile = Callable[[str], str | None]
"""The text of a file, None if it cannot be read."""


def read_file(path: str) -> str | None:
    """The text of a file of this computer; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib takes long to import
            return file.read()
    except (OSError, ValueError):  # a path may hold a null character
        return None
