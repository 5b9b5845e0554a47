"""Read small files for detection: a file that cannot be read counts as missing."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ReadFile", "read_file"]

ReadFile = Callable[[str], str | None]
"""Returns the text of a file; None if it cannot be read."""


def read_file(path: str) -> str | None:
    """Return the text of a file on this computer; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib is slow
            return file.read()
    except (OSError, ValueError):  # a path may hold a null character
        return None
