"""Which daemon has its state in a folder: a file that it writes, and a lock that it holds while it lives.

Light, as a client reads it: when the daemon does not answer, nobody else can tell which process to end.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

__all__ = ["LOCK", "Running", "find_running", "forget_running", "read_running", "write_running"]

LOCK: Final = "daemon.lock"
_FILE: Final = "daemon.json"


@dataclass(frozen=True)
class Running:
    """A daemon."""

    pid: int
    socket: str
    config: str | None = None
    """The settings file that it was given, with `--config` or WHISPERD_CONFIG."""


def find_running(folder: Path) -> Running | None:
    """The daemon that has its state in a folder, if it lives, whether or not it answers.

    The lock says whether it lives, so that its process is never mistaken for another one of the same id.
    """
    from whisperd.locks import is_held

    return read_running(folder) if is_held(folder / LOCK) else None


def read_running(folder: Path) -> Running | None:
    """What the file says."""
    try:
        said = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        config = str(said["config"]) if said.get("config") else None  # an older daemon does not say it
        return Running(pid=int(said["pid"]), socket=str(said["socket"]), config=config)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError):
        return None


def write_running(folder: Path, running: Running) -> None:
    """Say who is running. Only who holds the lock may. Raises `OSError`."""
    new = folder / f"{_FILE}.new"
    new.touch(mode=0o600)
    new.write_text(json.dumps(asdict(running)), encoding="utf-8")
    new.replace(folder / _FILE)


def forget_running(folder: Path) -> None:
    """Say that nobody is. Only who holds the lock may."""
    with suppress(OSError):
        (folder / _FILE).unlink()
