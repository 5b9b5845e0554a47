"""What can go wrong with the data base, in words that a person can act on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from whisperd import disk
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "busy",
    "damaged",
    "from_os_error",
    "from_sqlite_error",
    "gone",
    "is_refusal",
    "not_saved",
    "too_new",
    "unreadable",
]

_REFUSED = {
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_refusal(error: sqlite3.Error) -> bool:
    """Whether the system refused, or somebody else is in the way: then the file itself may be sound."""
    return _code(error) in _REFUSED


def from_sqlite_error(path: Path, error: sqlite3.Error) -> WhisperdError | None:
    """What a person is told; None for what is a mistake of the program's own."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return _disk_full(path)
    if code in _REFUSED:
        return unreadable(path, str(error))
    return damaged(path, str(error)) if code in _DAMAGED else None


def from_os_error(path: Path, error: OSError) -> WhisperdError:
    """What the system refused before SQLite was asked."""
    if disk.refusal(error) == "full":
        return _disk_full(path)
    return unreadable(path, error.strerror or str(error))


def unreadable(path: Path, reason: str) -> WhisperdError:
    """`store.unreadable`: the data base is there, or should be, and we are not let at it."""
    return WhisperdError(
        "store.unreadable",
        f"The data base {path} cannot be used: {reason}.",
        "Check the permissions of the file, its folder and its disk, and that no other program holds it; or "
        "set WHISPERD_STATE_DIR to another folder.",
        {"path": str(path)},
    )


def busy(path: Path) -> WhisperdError:
    """`store.busy`: another program reads what should be erased."""
    return WhisperdError(
        "store.busy",
        f"The data base {path} is being read by another program, so not everything could be erased.",
        "End that program, then purge again.",
        {"path": str(path)},
    )


def too_new(path: Path, version: int, known: int) -> WhisperdError:
    """`store.too_new`: a newer program has written it."""
    return WhisperdError(
        "store.too_new",
        f"The data base {path} has version {version}, and this whisperd knows versions up to {known}.",
        "Upgrade whisperd; nothing in the data base was changed.",
        {"path": str(path), "version": version, "known": known},
    )


def damaged(path: Path, reason: str) -> WhisperdError:
    """`store.damaged`: it was sound when it was opened, and is not any more."""
    return WhisperdError(
        "store.damaged",
        f"The data base {path} is damaged: {reason}.",
        "Run `whisperctl daemon restart`: it sets the damaged data base aside and begins a new one.",
        {"path": str(path)},
    )


def not_saved() -> WhisperdError:
    """`job.not_saved`: it could not be written, and neither the disk nor the data base is at fault."""
    return WhisperdError(
        "job.not_saved",
        "What was to be kept could not be written into the data base, because of a mistake in whisperd.",
        "Please report it with the lines that `whisperctl daemon logs` shows.",
    )


def gone(path: Path) -> WhisperdError:
    """`store.gone`: it was there when it was opened."""
    return WhisperdError(
        "store.gone",
        f"The data base {path} was removed or replaced while it was in use.",
        "Put it back, if you can; then run `whisperctl daemon restart`, which else begins a new one.",
        {"path": str(path)},
    )


def _disk_full(path: Path) -> WhisperdError:
    fix = "Free some space there, or set WHISPERD_STATE_DIR to a folder on a larger disk."
    return disk.disk_full("data base", path.name, path.parent, fix)


def _code(error: sqlite3.Error) -> int | None:
    """The primary result code, without what extends it."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
