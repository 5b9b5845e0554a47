"""Inspects the socket from a client. Changes nothing; to see whether a daemon holds the lock file next to the
socket, it takes that lock for a moment.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from whisperd.doctor.facts import SocketFacts
from whisperd.locks import is_held
from whisperd.rpc.transport import is_listened_on

__all__ = ["look_at_socket"]


def look_at_socket(path: str) -> SocketFacts:
    """Return what exists at the socket's path, and whether anything listens there."""
    if sys.platform == "win32":
        return SocketFacts(path=path, kind="socket", listening=is_listened_on(path))
    lock = Path(f"{path}.lock")
    is_open, owned = False, True
    with suppress(OSError):
        folder = Path(path).parent.stat()
        # In a folder with the sticky bit, such as /tmp, others cannot replace our files.
        is_open = bool(folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not folder.st_mode & stat.S_ISVTX
        owned = folder.st_uid in (os.geteuid(), 0)
    try:
        there = Path(path).lstat()
    except OSError:
        return SocketFacts(path=path, owned=owned, folder_is_open=is_open, locked=is_held(lock))
    return SocketFacts(
        path=path,
        kind="socket" if stat.S_ISSOCK(there.st_mode) else "other",
        mode=stat.S_IMODE(there.st_mode),
        folder_is_open=is_open,
        owned=owned and there.st_uid == os.geteuid(),
        listening=is_listened_on(path),
        locked=is_held(lock),
    )
