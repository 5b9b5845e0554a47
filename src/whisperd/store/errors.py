"""The errors of the database, with fixes that a user can act on."""

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
    "is_damage",
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
_UNEXPLAINED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_refusal(error: sqlite3.Error) -> bool:
    """Whether the system or another program prevented access, so that the file itself may be sound."""
    return _code(error) in _REFUSED


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged."""
    return _code(error) in _DAMAGED


def from_sqlite_error(path: Path, error: sqlite3.Error) -> WhisperdError | None:
    """Return the error to report; None for an error that is a bug of ours. Blocks."""
    code = _code(error)
    # SQLite does not report an exceeded quota as such, nor a file that it could not create or enlarge.
    if code == sqlite3.SQLITE_FULL or (code in _UNEXPLAINED and disk.is_full(path.parent)):
        return _disk_full(path)
    if code in _REFUSED:
        return unreadable(path, str(error))
    return damaged(path, str(error)) if is_damage(error) else None


def from_os_error(path: Path, error: OSError) -> WhisperdError:
    """Return the error to report when the system refused access before SQLite was called."""
    if disk.refusal(error) == "full":
        return _disk_full(path)
    return unreadable(path, error.strerror or str(error))


def unreadable(path: Path, reason: str) -> WhisperdError:
    """`store.unreadable`: the database exists, or should, but the system denies access."""
    return WhisperdError(
        "store.unreadable",
        f"The database {path} cannot be used: {reason}.",
        "Check the permissions of the file, its folder and its disk, and that no other program locks it; or "
        "set WHISPERD_STATE_DIR to another folder.",
        {"path": str(path)},
    )


def busy(path: Path) -> WhisperdError:
    """`store.busy`: another program is reading what should be erased."""
    return WhisperdError(
        "store.busy",
        f"Another program is reading the database {path}, so not everything could be erased.",
        "End that program, then purge again.",
        {"path": str(path)},
    )


def too_new(path: Path, version: int, known: int) -> WhisperdError:
    """`store.too_new`: a newer program wrote it."""
    return WhisperdError(
        "store.too_new",
        f"The database {path} has version {version}, but this whisperd supports versions up to {known}.",
        "Upgrade whisperd. The database was not changed.",
        {"path": str(path), "version": version, "known": known},
    )


def damaged(path: Path, reason: str) -> WhisperdError:
    """`store.damaged`: it was sound when opened, but no longer is."""
    return WhisperdError(
        "store.damaged",
        f"The database {path} is damaged: {reason}.",
        "Run `whisperctl daemon restart`, which sets the damaged database aside and creates a new one.",
        {"path": str(path)},
    )


def not_saved() -> WhisperdError:
    """`job.not_saved`: a write failed, but neither the disk nor the database is at fault."""
    return WhisperdError(
        "job.not_saved",
        "The data could not be written to the database because of a bug in whisperd.",
        "Please report it, with the output of `whisperctl daemon logs`.",
    )


def gone(path: Path) -> WhisperdError:
    """`store.gone`: it existed when opened."""
    return WhisperdError(
        "store.gone",
        f"The database {path} was removed or replaced while it was in use.",
        "Restore it if you can; then run `whisperctl daemon restart`, which otherwise creates a new one.",
        {"path": str(path)},
    )


def _disk_full(path: Path) -> WhisperdError:
    fix = "Free some space there, or set WHISPERD_STATE_DIR to a folder on a larger disk."
    return disk.disk_full("database", path.name, path.parent, fix)


def _code(error: sqlite3.Error) -> int | None:
    """Return the primary result code, without its extension."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
