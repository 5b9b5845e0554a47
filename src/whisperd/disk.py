"""Disk operations: list, measure, write safely, and explain why the system refused one."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Final, Literal, TypeVar

import msgspec

from whisperd.decodable import decodable
from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "contents",
    "disk_full",
    "files_bytes",
    "free_bytes",
    "is_full",
    "open_nonblocking",
    "read_json",
    "refusal",
    "remove",
    "sync_folder",
    "write_whole",
]

T = TypeVar("T")

_SMALL_BYTES: Final = 64 * 1024
# EFBIG: the file is larger than the file system, or a limit on the process, allows.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The last two: a file is where a folder should be.
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def contents(folder: Path) -> list[Path]:
    """List a folder; empty if it does not exist, may not be read, or disappears meanwhile."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def remove(path: Path) -> None:
    """Delete a file, or a folder with as much of its contents as possible. Raises `OSError` for a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_nonblocking(path: str, flags: int) -> int:
    """Open a file, as an `opener`, without blocking as a named pipe without a writer would."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: Path, into: type[T]) -> T | None:
    """Read a small JSON file of whisperd; None if it is missing or invalid."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=decodable(into))
    except (OSError, ValueError, RecursionError):
        return None


def files_bytes(folder: Path) -> int:
    """Return the total size of the files in a folder; one that is deleted meanwhile counts as empty."""
    total_bytes = 0
    for path in contents(folder):
        with suppress(OSError):
            total_bytes += path.stat().st_size if path.is_file() else 0
    return total_bytes


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk that a folder is, or will be, on."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def is_full(folder: Path) -> bool:
    """Whether a small file does not fit into a folder. This is tried, since free space shows no quota."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(_SMALL_BYTES))
            os.fsync(file.fileno())  # network file systems report a quota only here
    except OSError as error:
        return refusal(error) == "full"
    return False


def sync_folder(folder: str | Path) -> None:
    """Make renames in a folder durable. Does nothing on Windows, which does not need it, and on file systems
    that do not support it. Raises `OSError`."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically, and create its folder. After a crash, the old or the new file exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def refusal(error: OSError) -> Literal["full", "forbidden"] | None:
    """Return why the system refused: the disk is full, writing is forbidden, or neither (None)."""
    if error.errno in _FULL:
        return "full"
    return "forbidden" if error.errno in _FORBIDDEN else None


def disk_full(
    kind: str,
    name: str,
    folder: PurePath,
    fix: str,
    needed_bytes: int | None = None,
    free_bytes: int | None = None,
) -> WhisperdError:
    """Return `disk.full`, with how much is needed and how much is free where that is known."""
    room = f": it needs {size(needed_bytes)}" if needed_bytes is not None else ""
    free = f", and {size(free_bytes)} are free" if free_bytes is not None else ""
    return WhisperdError(
        "disk.full",
        f"There is not enough space for the {kind} {name} in {folder}{room}{free}.",
        fix,
        {"name": name, "path": str(folder), "needed_bytes": needed_bytes, "free_bytes": free_bytes},
    )
