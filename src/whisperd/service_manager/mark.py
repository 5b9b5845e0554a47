"""The mark in a file that we wrote: shows whether the file was changed since, and names its socket."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["is_unchanged", "marked", "socket_in"]

_MARK: Final = re.compile(
    r"Written by `whisperctl daemon install` for (.*)\. SHA-256 of the rest: ([0-9a-f]{64})"
)


def marked(text: str, socket: str, comment: tuple[str, str] = ("# ", "")) -> str:
    """Return the text with a mark as its first line, or as its second if the first must stay first."""
    before, after = comment
    said = f"Written by `whisperctl daemon install` for {socket}. SHA-256 of the rest: {_digest(text)}"
    line = f"{before}{said}{after}\n"
    if text.startswith(("<?xml", "#!")):
        first, _, rest = text.partition("\n")
        return f"{first}\n{line}{rest}"
    return line + text


def is_unchanged(text: str) -> bool:
    """Whether a file is unchanged since we wrote it."""
    lines = text.splitlines(keepends=True)
    for place, line in enumerate(lines[:2]):
        if found := _MARK.search(line):
            return found[2] == _digest("".join(lines[:place] + lines[place + 1 :]))
    return False


def socket_in(text: str) -> str | None:
    """Return the socket for which a file was written; None for a file without a mark."""
    found = _MARK.search("\n".join(text.splitlines()[:2]))
    return found[1] if found else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
