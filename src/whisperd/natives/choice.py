"""The choice of a bundle's version: the shipped one, unless an upgrade has chosen another.

A choice belongs to the shipped lock it was made from. A whisperd with another shipped lock, or another
Python, starts again with its own shipped version. Blocking; callers use a thread.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from whisperd.decodable import decodable
from whisperd.disk import write_whole

__all__ = ["Choice", "Chosen", "read_choice", "write_choice"]

log = logging.getLogger(__name__)


class Chosen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version other than the shipped one."""

    folder: str
    """The `folder` of its `whisperd.natives.lock.Selection`."""
    lock: str
    """The text of its own lock file."""


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The version in use, and the one used before. None is the shipped one."""

    current: Chosen | None = None
    previous: Chosen | None = None

    def without(self, folder: str) -> Choice:
        """Return the choice after that version is removed: if it was current, the previous one becomes so."""
        if self.current is not None and self.current.folder == folder:
            return Choice(current=self.previous).without(folder)
        if self.previous is not None and self.previous.folder == folder:
            return Choice(current=self.current)
        return self

    def mentions(self, folder: str) -> bool:
        """Whether that version is the current or the previous one, and is not the shipped one."""
        return any(one is not None and one.folder == folder for one in (self.current, self.previous))


def read_choice(path: Path) -> Choice | None:
    """Return the choice; None if there is none or it cannot be read, so that the shipped version is used."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=decodable(Choice))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s); using the version that ships with whisperd", path, error)
        return None


def write_choice(path: Path, choice: Choice) -> None:
    """Write a choice, atomically and durably. The caller must hold the lock of the choice."""
    if choice == Choice():
        path.unlink(missing_ok=True)
        return
    write_whole(path, msgspec.json.format(msgspec.json.encode(choice), indent=2) + b"\n")
