"""Disks: what lies and how much fits on one, and what it means when one refuses."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Literal, TypeVar

import msgspec

from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "contents",
    "disk_full",
    "files_bytes",
    "free_bytes",
    "read_json",
    "refusal",
    "remove",
    "sync_folder",
    "write_whole",
]

T = TypeVar("T")

# A file that is larger than the file system, or a limit on the process, allows has no room either.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The last two: a file lies where a folder has to be.
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def contents(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where there is none, we may not look, or it goes while we do."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it as far as that goes. Raises `OSError` of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path, into: type[T]) -> T | None:
    """What stands in a small file of ours; None where there is none, or it is spoilt."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=into)
    except (OSError, ValueError, RecursionError):
        return None


def files_bytes(folder: Path) -> int:
    """How many bytes the files in a folder have together; what goes while we look has none."""
    total_bytes = 0
    for path in contents(folder):
        with suppress(OSError):
            total_bytes += path.stat().st_size if path.is_file() else 0
    return total_bytes


def free_bytes(folder: Path) -> int:
    """What can be written to the disk that a folder is, or will be, on."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def sync_folder(folder: str | Path) -> None:
    """Make renames in a folder last. Windows has no such thing, and needs none, nor have some file systems.
    Raises `OSError`."""
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
    """Write a file, and its folder, so that after a crash the old one or the new one is there."""
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
    """Whether the system refused because the disk is full, or because one may not write there."""
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
    """`disk.full`: no room for something; how much it needs, and how much is free, where that is known."""
    room = f": it needs {size(needed_bytes)}" if needed_bytes is not None else ""
    free = f", and {size(free_bytes)} are free" if free_bytes is not None else ""
    return WhisperdError(
        "disk.full",
        f"There is no room for the {kind} {name} in {folder}{room}{free}.",
        fix,
        {"name": name, "path": str(folder), "needed_bytes": needed_bytes, "free_bytes": free_bytes},
    )
