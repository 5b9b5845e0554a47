"""Reading the log file: its last lines, and what is added to it."""

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
    """The last lines of a log, the rotated one before it included where it is needed.

    Raises `log.none` and `log.unreadable`.
    """
    with _errors_told(path), _open(path) as file:
        return _last(path, file, count)


def follow(path: Path, count: int, output: IO[str]) -> NoReturn:
    """Print the last lines of a log, and what is added to it, until interrupted.

    A file that is rotated is followed on. Raises like `last_lines`.
    """
    with _errors_told(path):
        file = _open(path)
        last = _last(path, file, count)
    # What is added from here on is read from the same file: nothing is told twice, and nothing is lost.
    try:
        output.write("".join(f"{line}\n" for line in last))
        while True:
            output.flush()
            if text := file.read():
                output.write(text)
            elif _was_rotated(file, path):
                output.write(file.read())  # what was added to it just before
                file.close()
                file = _open(path)
            else:
                time.sleep(POLL_S)
    finally:
        file.close()


@contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    try:
        yield
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


def _open(path: Path) -> IO[str]:
    return path.open(encoding="utf-8", errors="replace")


def _last(path: Path, file: IO[str], count: int) -> list[str]:
    """The last lines of an open log; it is read to its end."""
    lines: deque[str] = deque(maxlen=min(count, sys.maxsize))
    with suppress(FileNotFoundError), _open(path.with_name(path.name + ".1")) as before:
        lines.extend(before)
    lines.extend(file)
    return [line.rstrip("\n") for line in lines]


def _was_rotated(file: IO[str], path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False  # in between; the new one comes at once
    return status.st_size < file.tell() or status.st_ino != os.fstat(file.fileno()).st_ino
