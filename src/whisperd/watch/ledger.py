"""Decide whether a file that was found is already known to the ledger. Pure.

A file is identified by its content, not its name: by device and inode, size and modification time or, where
these differ, by the SHA-256 of its bytes. So a renamed file is not processed again, an edited one is, and
file systems that report a new inode each time do no harm. Under an unchanged name, the device does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from whisperd.watch.names import is_same_name

__all__ = [
    "FileRow",
    "FileStatus",
    "Identity",
    "Outcome",
    "Recognition",
    "Seen",
    "device_of",
    "recognise",
    "wants_work",
]

FileStatus = Literal["working", "written", "done", "lost", "retrying", "failed"]
"""`working`: its job was written in the same transaction. `written`: its outputs are written, and its
follow-up is in progress, waits for its disk, or is tried again later. `lost`: it needs work that has not
begun. `failed`: given up."""


Outcome = Literal["done", "retried", "failed"]
"""The outcome of a file that was taken. `retried`: it will be retried, as the error may be transient."""


class Identity(msgspec.Struct, frozen=True):
    """What the file system reports about a file."""

    inode: str
    """Device and inode number."""
    size_bytes: int
    modified_ns: int

    def is_unchanged(self, now: Identity) -> bool:
        """Whether this is still the same file. Its disk may have another device number after each mount."""
        ours, theirs = (one.inode.partition(":")[2] for one in (self, now))
        return (ours, self.size_bytes, self.modified_ns) == (theirs, now.size_bytes, now.modified_ns)


def device_of(inode: str) -> str:
    """Return the device part of an `Identity.inode`."""
    return inode.partition(":")[0]


class Seen(msgspec.Struct, frozen=True):
    """A file as it was found, by its path within the watched folder."""

    path: str
    identity: Identity
    links: int = 1
    """Number of hard links."""


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A file in the ledger."""

    id: int
    watch: str
    path: str
    identity: Identity
    hash: str | None
    """The SHA-256 of its bytes, if known."""
    status: FileStatus
    job: str | None = None
    attempts: int = 0
    """How often it has failed."""
    retry_at: str | None = None
    """RFC 3339."""
    error: dict[str, Any] | None = None
    gone: str | None = None
    """Since when it has been missing, or is being removed by us (RFC 3339)."""


class Recognition(NamedTuple):
    """`same`: known and unchanged. `moved`: known under another name. `alias`: another path to a file that is
    found under its own name. `unknown`: its content has to be read."""

    verdict: Literal["same", "moved", "alias", "unknown"]
    row: FileRow | None


def recognise(
    seen: Seen, known: FileRow | None, others: Sequence[FileRow], is_there: Callable[[FileRow], bool]
) -> Recognition:
    """Decide whether a file is known, without reading its content.

    `known` is the ledger's file at this path, `others` are its files with this inode at other paths;
    `is_there` says whether such a path still leads to this inode.
    """
    if known is not None:
        return Recognition("same" if known.identity.is_unchanged(seen.identity) else "unknown", known)
    for other in others:
        if other.identity.inode != seen.identity.inode:
            continue
        there = is_there(other)
        if there and seen.links == 1 and not is_same_name(other.path, seen.path):
            return Recognition("alias", other)  # through a link to a folder, or a mount
        if (not there or seen.links == 1) and other.identity == seen.identity:
            return Recognition("moved", other)
    return Recognition("unknown", None)


def wants_work(row: FileRow, now: str, latest: str) -> bool:
    """Whether an unchanged file needs work; `now` is RFC 3339.

    No retry is delayed beyond `latest`: a later time was set by a clock that has been turned back since.
    """
    if row.status == "retrying":
        return row.retry_at is None or not now < row.retry_at <= latest
    return row.status == "lost"
