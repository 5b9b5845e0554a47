"""Proof that a file holds the bytes that it should: hashes, and stamps that spare hashing again."""

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
"""Told how many bytes of a file were read or written since it was called last."""

CHUNK_BYTES = 1 << 20
"""How much of a file is read at once."""
_SETTLED_NS = 20_000_000


class Stamp(msgspec.Struct, frozen=True):
    """What the file system says of a file. Where it is unchanged, so is the file.

    The change time cannot be set by a program, so restoring the modification time hides nothing
    (Windows has only the creation time there).
    """

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


class Digests(msgspec.Struct, frozen=True):
    """The hashes of a file, and its stamp while it was read."""

    sha256: str
    git_sha1: str | None
    stamp: Stamp


def stamp(path: Path) -> Stamp:
    """The stamp of a file; of a link, the one of its target."""
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def hash_file(path: Path, *, git: bool = False, on_bytes: OnBytes | None = None) -> Digests:
    """Read a whole file; with `git` compute the name that git would give it, too.

    Blocks. In a thread that anyio started it ends early when its task is cancelled. A file that
    changes while it is read raises OSError.
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
    """Wait until any later change of these files must show in their stamps.

    File systems tell time in steps of some milliseconds: a change within the step of the stamp
    would not be seen.
    """
    for path in paths:
        with contextlib.suppress(OSError):
            found = stamp(path)
            age_ns = time.time_ns() - max(found.modified_ns, found.changed_ns)
            if 0 <= age_ns < _SETTLED_NS:
                time.sleep((_SETTLED_NS - age_ns) / 1e9)


def check_cancelled() -> None:
    """In a thread that anyio started, raise when its task was cancelled; elsewhere do nothing."""
    try:
        anyio.from_thread.check_cancelled()
    except RuntimeError:  # not a thread of anyio's
        return
