"""Identifies the daemon that uses a state folder: by a file that it writes, and a lock that it holds.

Imports stay light, since clients use this: if the daemon does not respond, only this file says which process
to end.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Final

from whisperd.paths import whisperctl_for
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    import psutil

__all__ = [
    "LOCK",
    "Running",
    "already_running",
    "daemon_process",
    "find_running",
    "forget_running",
    "read_running",
    "write_running",
]

LOCK: Final = "daemon.lock"
_FILE: Final = "daemon.json"


@dataclass(frozen=True)
class Running:
    """A running daemon."""

    pid: int
    socket: str
    config: str | None = None
    """The settings file that it was given with `--config` or WHISPERD_CONFIG."""
    host: str = field(default_factory=gethostname)
    """The name of its computer or container, since several may share the folder."""


def find_running(folder: Path) -> Running | None:
    """Return the daemon that uses a state folder if it is alive, whether or not it answers.

    The lock shows whether it is alive, so that another process that reuses its id is never mistaken for it.
    """
    from whisperd.locks import is_held

    return read_running(folder) if is_held(folder / LOCK) else None


def read_running(folder: Path) -> Running | None:
    """Read the file; None if it is missing or invalid."""
    try:
        read = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        config = None if read["config"] is None else str(read["config"])
        return Running(int(read["pid"]), str(read["socket"]), config, str(read["host"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def daemon_process(pid: int) -> psutil.Process | None:
    """Return the process if it is a daemon. On another computer, or outside a container that shares the state
    folder, it is some other process, or there is none.
    """
    from pathlib import PurePath

    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if any(PurePath(word).name in ("whisperd", "whisperd.exe") for word in process.cmdline()):
            return process
    return None


def write_running(folder: Path, running: Running) -> None:
    """Write the file. Only the holder of the lock may call this. Raises `OSError`."""
    new = folder / f"{_FILE}.new"
    new.touch(mode=0o600)
    new.write_text(json.dumps(asdict(running)), encoding="utf-8")
    new.replace(folder / _FILE)


def forget_running(folder: Path) -> None:
    """Delete the file. Only the holder of the lock may call this."""
    with suppress(OSError):
        (folder / _FILE).unlink()


def already_running(path: str) -> WhisperdError:
    """Return `daemon.already_running`."""
    return WhisperdError(
        "daemon.already_running",
        f"A daemon is already running on {path}.",
        f"Use it, or stop it with `{whisperctl_for(path)} daemon stop`.",
    )
