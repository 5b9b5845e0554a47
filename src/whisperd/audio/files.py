"""Opens the file that a user named, or reports exactly why that fails."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Final

from whisperd.rpc.errors import WhisperdError

__all__ = ["digest_of", "not_readable", "open_regular_file"]

CHUNK_BYTES: Final = 1 << 20


@contextmanager
def open_regular_file(path: str) -> Iterator[FileIO]:
    """Open a file for unbuffered reading; the file object does not reveal its name.

    Raises `WhisperdError` with one of the codes `audio.not_found`, `audio.is_directory`, `audio.not_a_file`,
    `audio.not_readable`, `audio.empty`.
    """
    try:
        # Non-blocking, or a named pipe without a writer would block here.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _error("audio.not_found", path, "does not exist", "Check the spelling of the name.") from error
    except (OSError, ValueError) as error:
        if os.path.isdir(path):  # noqa: PTH112 - it never raises. Windows does not open folders
            raise _is_directory(path) from error
        raise not_readable(path, error) from error
    try:
        _check(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    with FileIO(descriptor, "rb") as file:
        yield file


def digest_of(file: FileIO, given_up: threading.Event) -> str | None:
    """Return the SHA-256 of a file's content; None if `given_up` was set meanwhile."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        if given_up.is_set():
            return None
    return digest.hexdigest()


def not_readable(path: str, error: Exception) -> WhisperdError:
    """Return the error for a file that the system cannot read, or does not let us read."""
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, PermissionError):
        fix = "Check the permissions of the file and of its folders."
    elif isinstance(error, ValueError) or getattr(error, "errno", None) in (errno.ENAMETOOLONG, errno.ELOOP):
        fix = "Check the name and, if it is a link, the target."
    else:
        fix = "Check that the disk or network folder responds, then try again."
    return _error("audio.not_readable", path, f"cannot be read: {reason}", fix)


def _check(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _is_directory(path)
    if not stat.S_ISREG(status.st_mode):
        raise _error(
            "audio.not_a_file",
            path,
            "is a device or a pipe, not a file",
            "Copy its content into a file, or pipe it into `whisperctl transcribe -`.",
        )
    if status.st_size == 0:
        raise _error("audio.empty", path, "is empty: it has 0 bytes", "Record or download the file again.")


def _is_directory(path: str) -> WhisperdError:
    return _error("audio.is_directory", path, "is a folder", "Name the files in it, as in FOLDER/*.wav.")


def _error(code: str, path: str, what: str, fix: str) -> WhisperdError:
    return WhisperdError(code, f"{path} {what}.", fix, {"path": path})
