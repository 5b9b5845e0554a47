"""Reading the log file: its last lines, and new ones as they are written."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

from whisperd.rpc.errors import WhisperdError

__all__ = ["follow", "last_lines"]

POLL_S = 0.25


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, including those of the previous, rotated file if needed.

    Raises `log.none` and `log.unreadable`.
    """
    with _errors_translated(path), _open(path) as file:
        return _last(path, file, count)


def follow(path: Path, count: int, output: IO[str]) -> NoReturn:
    """Print the last lines of a log, and new ones as they are written, until interrupted.

    Follows the log across rotation. Raises like `last_lines`.
    """
    with _errors_translated(path):
        file = _open(path)
        last = _last(path, file, count)
    # New lines are read from the same open file, so that none is printed twice and none is lost.
    try:
        output.write("".join(f"{line}\n" for line in last))
        while True:
            output.flush()
            if text := file.read():
                output.write(text)
            elif _was_rotated(file, path):
                output.write(file.read())  # what was written just before the rotation
                file.close()
                file = _open(path)
            else:
                time.sleep(POLL_S)
    finally:
        file.close()


@contextmanager
def _errors_translated(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise WhisperdError(
            "log.none", f"The log {path} does not exist yet.", "Start the daemon: `whisperctl daemon start`."
        ) from None
    except OSError as error:
        raise WhisperdError(
            "log.unreadable",
            f"The log {path} cannot be read: {error.strerror or error}.",
            "Check the permissions of the file and its folder.",
        ) from error


def _open(path: Path) -> IO[str]:
    return path.open(encoding="utf-8", errors="replace")


def _last(path: Path, file: IO[str], count: int) -> list[str]:
    """Read an open log to its end and return its last lines."""
    lines: deque[str] = deque(maxlen=min(count, sys.maxsize))
    with suppress(FileNotFoundError), _open(path.with_name(path.name + ".1")) as before:
        lines.extend(before)
    lines.extend(file)
    return [line.rstrip("\n") for line in lines]


def _was_rotated(file: IO[str], path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False  # during a rotation; the new file appears at once
    return status.st_size < file.tell() or status.st_ino != os.fstat(file.fileno()).st_ino
