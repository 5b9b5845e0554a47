"""Which version of a bundle is used: the shipped one, unless an upgrade has chosen another.

A choice belongs to the shipped lock that it was made from. A program that ships another lock, or another
Python, begins with its own again. Blocking; callers use a thread.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from whisperd.disk import write_whole

__all__ = ["Choice", "Chosen", "read_choice", "write_choice"]

log = logging.getLogger(__name__)


class Chosen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version that is not the shipped one."""

    folder: str
    """Of `whisperd.natives.lock.Selection`."""
    lock: str
    """The text of a lock file of its own."""


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is used, and what was used before. None is the shipped one."""

    current: Chosen | None = None
    previous: Chosen | None = None

    def without(self, folder: str) -> Choice:
        """What is chosen when that version is no more: if it was the current one, the previous one is."""
        if self.current is not None and self.current.folder == folder:
            return Choice(current=self.previous).without(folder)
        if self.previous is not None and self.previous.folder == folder:
            return Choice(current=self.current)
        return self

    def mentions(self, folder: str) -> bool:
        """Whether that version is the current or the previous one, and not the shipped one."""
        return any(one is not None and one.folder == folder for one in (self.current, self.previous))


def read_choice(path: Path) -> Choice | None:
    """What was chosen; None where nothing was, or it cannot be read: then the shipped version is used."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Choice)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s); the version that whisperd came with is used", path, error)
        return None


def write_choice(path: Path, choice: Choice) -> None:
    """Choose, at once and for good. Only who holds the lock of the choice may."""
    if choice == Choice():
        path.unlink(missing_ok=True)
        return
    write_whole(path, msgspec.json.format(msgspec.json.encode(choice), indent=2) + b"\n")
