"""Verify the bytes of files: by hashes, and by stamps that make hashing them again unnecessary."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio.from_thread
import anyio.lowlevel
import msgspec

__all__ = ["CHUNK_BYTES", "Digests", "OnBytes", "Stamp", "check_cancelled", "hash_file", "settle", "stamp"]

OnBytes = Callable[[int], None]
"""Called with the number of bytes of a file that were read or written since the last call."""

CHUNK_BYTES = 1 << 20
"""How many bytes of a file are read at a time."""
_SETTLED_NS = 20_000_000


class Stamp(msgspec.Struct, frozen=True):
    """A file's metadata in the file system. While it is unchanged, so is the file.

    No program can set the change time, so restoring the modification time hides no change
    (on Windows this field is only the creation time).
    """

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


class Digests(msgspec.Struct, frozen=True):
    """The hashes of a file, and its stamp when it was read."""

    sha256: str
    git_sha1: str | None
    stamp: Stamp


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file, or of a link's target."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def hash_file(path: Path, *, git: bool = False, on_bytes: OnBytes | None = None) -> Digests:
    """Hash a whole file; with `git`, also compute its git blob hash.

    Blocks. In a thread started by anyio it stops early when its task is cancelled. Raises OSError if the
    file changes while it is read.
    """
    before = stamp(path)
    sha256 = hashlib.sha256()
    git_sha1 = hashlib.sha1(b"blob %d\0" % before.size_bytes, usedforsecurity=False) if git else None
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            check_cancelled()
            sha256.update(chunk)
            if git_sha1 is not None:
                git_sha1.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    if stamp(path) != before:
        raise OSError(f"{path} changed while it was read")
    return Digests(sha256.hexdigest(), git_sha1.hexdigest() if git_sha1 is not None else None, before)


def settle(paths: Iterable[Path]) -> None:
    """Wait until any later change to these files is certain to change their stamps.

    File systems record times in steps of some milliseconds: a change within the same step as the stamp
    would go unnoticed.
    """
    for path in paths:
        with contextlib.suppress(OSError):
            found = stamp(path)
            age_ns = time.time_ns() - max(found.modified_ns, found.changed_ns)
            if 0 <= age_ns < _SETTLED_NS:
                time.sleep((_SETTLED_NS - age_ns) / 1e9)


def check_cancelled() -> None:
    """In a thread started by anyio, raise if its task was cancelled; elsewhere do nothing."""
    try:
        anyio.from_thread.check_cancelled()
    except RuntimeError:  # not a thread started by anyio
        return
