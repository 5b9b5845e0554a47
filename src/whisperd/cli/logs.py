"""Reading the log file: its last lines, and what is added to it."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from whisperd.rpc.errors import WhisperdError

__all__ = ["follow", "last_lines"]

POLL_S = 0.25


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, the rotated one before it included where it is needed.

    Raises `log.none` and `log.unreadable`.
    """
    lines: deque[str] = deque(maxlen=max(count, 0))
    try:
        with suppress(FileNotFoundError):
            lines.extend(_lines(path.with_name(path.name + ".1")))
        lines.extend(_lines(path))
    except FileNotFoundError:
        raise WhisperdError(
            "log.none", f"There is no log in {path} yet.", "Start the daemon: `whisperctl daemon start`."
        ) from None
    except OSError as error:
        raise WhisperdError(
            "log.unreadable",
            f"The log {path} cannot be read: {error.strerror or error}.",
            "Check the permissions of the file and of its folder.",
        ) from error
    return list(lines)


def follow(path: Path, output: IO[str]) -> None:
    """Print what is added to a file until interrupted; a file that is rotated is followed on."""
    file = path.open(encoding="utf-8", errors="replace")
    file.seek(0, 2)
    try:
        while True:
            if text := file.read():
                output.write(text)
                output.flush()
            elif _was_rotated(file, path):
                output.write(file.read())  # what was added to it just before
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
            else:
                time.sleep(POLL_S)
    finally:
        file.close()


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield line.rstrip("\n")


def _was_rotated(file: IO[str], path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False  # in between; the new one comes at once
    return status.st_size < file.tell() or status.st_ino != os.fstat(file.fileno()).st_ino
