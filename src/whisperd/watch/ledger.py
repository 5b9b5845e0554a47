"""The ledger's decisions: whether a file that is seen is one that is known. Pure.

A file is known by what it holds, not by its name: by its device and inode, its size and the time of its last
change; where these do not agree, by the SHA-256 of its bytes. So what was renamed is no new work, what was
edited is, and a file system that gives a file another inode each time is no trouble.
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
"""`working`: its job is in the same transaction. `written`: its outputs are there, what comes after them is
not done yet: somebody is at it, or its disk is away. `lost`: nothing is being done for it, though it is to
be. `failed`: set aside."""


Outcome = Literal["done", "retried", "failed"]
"""What becomes of a file that was taken. `retried`: it will be, for the cause may pass."""


class Identity(msgspec.Struct, frozen=True):
    """What the file system says of a file."""

    inode: str
    """Device and number."""
    size_bytes: int
    modified_ns: int


def device_of(inode: str) -> str:
    """The device of an `Identity.inode`."""
    return inode.partition(":")[0]


class Seen(msgspec.Struct, frozen=True):
    """A file as it was seen, by its path within its folder."""

    path: str
    identity: Identity
    links: int = 1
    """How many names it has."""


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A file in the ledger."""

    id: int
    watch: str
    path: str
    identity: Identity
    hash: str | None
    """The SHA-256 of its bytes, where it is known."""
    status: FileStatus
    job: str | None = None
    attempts: int = 0
    """How often it has failed."""
    retry_at: str | None = None
    """RFC 3339."""
    error: dict[str, Any] | None = None
    gone: str | None = None
    """Since when it is not there any more (RFC 3339)."""


class Recognition(NamedTuple):
    """`same`: as it is known. `moved`: it is known by another name. `alias`: another way to a file that is
    found under its own name. `unknown`: what it holds has to be looked at."""

    verdict: Literal["same", "moved", "alias", "unknown"]
    row: FileRow | None


def recognise(
    seen: Seen, known: FileRow | None, others: Sequence[FileRow], is_there: Callable[[FileRow], bool]
) -> Recognition:
    """Whether a file is known, by what can be told without reading it.

    `known` is what the ledger has by this path, `others` what it has by this inode under other paths;
    `is_there` says whether such a path still leads to this inode.
    """
    if known is not None:
        return Recognition("same" if known.identity == seen.identity else "unknown", known)
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
    """Whether something is to be done for a file that is as it was; `now` is RFC 3339.

    Nothing is put off beyond `latest`: whoever seems to be was so by a clock that has been set back since.
    """
    if row.status == "retrying":
        return row.retry_at is None or not now < row.retry_at <= latest
    return row.status == "lost"
