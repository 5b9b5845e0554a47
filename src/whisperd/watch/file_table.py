"""The table of files: what is known about each file of a watch, and its status.

Functions that take a connection run within the caller's transaction; methods are transactions of their own
and raise what `Database.run` raises.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from whisperd.clock import now_rfc3339
from whisperd.decodable import decodable
from whisperd.store import Database
from whisperd.watch.errors import unknown_watch
from whisperd.watch.ledger import FileRow, FileStatus, Identity, Seen
from whisperd.watch.log_table import LogLine, add_log

__all__ = ["FileTable", "one_file", "put_file", "update_file"]

_COLUMNS = "id, watch, path, inode, size, modified, hash, status, job, attempts, retry_at, error, gone"


class FileTable:
    """The files of all watches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def look_up(
        self, watch: str, seen: Sequence[Seen]
    ) -> list[tuple[Seen, FileRow | None, list[FileRow]]]:
        """Look up files that were seen: by path, or failing that by inode."""

        def work(connection: sqlite3.Connection) -> list[tuple[Seen, FileRow | None, list[FileRow]]]:
            found = []
            for one in seen:
                known = one_file(connection, "watch = ? AND path = ?", (watch, os.fsencode(one.path)))
                others = (
                    []
                    if known
                    else _files(connection, "watch = ? AND inode = ?", (watch, one.identity.inode))
                )
                found.append((one, known, others))
            return found

        return await self._database.run(work)

    async def get(self, number: int) -> FileRow | None:
        """Return a file of the ledger."""
        return await self._database.run(lambda connection: one_file(connection, "id = ?", (number,)))

    async def at(self, watch: str, path: str) -> FileRow | None:
        """Return the file known at a path."""
        return await self._database.run(
            lambda connection: one_file(connection, "watch = ? AND path = ?", (watch, os.fsencode(path)))
        )

    async def with_status(self, watch: str, statuses: Sequence[FileStatus]) -> list[FileRow]:
        """Return the files with one of these statuses, ordered by id."""
        condition = f"watch = ? AND status IN ({', '.join('?' * len(statuses))}) ORDER BY id"
        return await self._database.run(lambda connection: _files(connection, condition, (watch, *statuses)))

    async def present(self, watch: str, after: str, limit: int) -> list[FileRow]:
        """Return files that existed when last checked, ordered by path, which is indexed."""
        condition = "watch = ? AND gone IS NULL AND path > ? ORDER BY path LIMIT ?"
        values = (watch, os.fsencode(after), limit)
        return await self._database.run(lambda connection: _files(connection, condition, values))

    async def below(self, watch: str, folder: str) -> list[FileRow]:
        """Return the files that existed when last checked, at a path or below it."""
        path = os.fsencode(folder)
        return await self._database.run(
            lambda connection: _files(
                connection,
                "watch = ? AND gone IS NULL AND (path = ? OR (path >= ? AND path < ?))",
                (watch, path, path + b"/", path + b"0"),  # "0" follows "/" in ASCII
            )
        )

    async def counts(self, watches: Sequence[str]) -> list[dict[str, int]]:
        """Count the files of each watch by status, those that exist or are done."""
        query = (
            "SELECT status, count(*) FROM watch_files"
            " WHERE watch = ? AND (gone IS NULL OR status = 'done') GROUP BY status"
        )
        return await self._database.run(
            lambda connection: [dict(connection.execute(query, (watch,))) for watch in watches]
        )

    async def update(self, number: int, *log: LogLine, **values: Any) -> None:
        """Change fields of a file, and add lines to the log."""

        def work(connection: sqlite3.Connection) -> None:
            update_file(connection, number, **values)
            _add_logs(connection, number, log)

        await self._database.run(work)

    async def renumber(self, identities: Mapping[int, Identity]) -> None:
        """Record the identities of unchanged files, by id, on a disk that has another device number now."""

        def work(connection: sqlite3.Connection) -> None:
            for number, identity in identities.items():
                update_file(connection, number, identity=identity)

        await self._database.run(work)

    async def try_again(self, numbers: Iterable[int]) -> int:
        """Reset these files as if they had never failed, except those in progress; return how many."""
        rows = [(number,) for number in numbers]
        statement = (
            "UPDATE watch_files SET status = 'lost', attempts = 0, retry_at = NULL"
            " WHERE id = ? AND status NOT IN ('working', 'written')"
        )
        return await self._database.run(lambda connection: connection.executemany(statement, rows).rowcount)

    async def put(self, watch: str, seen: Seen, content_hash: str | None) -> int:
        """Record a file for which there is no job."""
        return await self._database.run(lambda connection: put_file(connection, watch, seen, content_hash))

    async def mark_removed(self, number: int, line: LogLine) -> None:
        """Record, also in the log, that we moved or deleted a file, so that another one of that name counts
        as new.

        A NUL, which no file name can contain, is appended to its path.
        """
        statement = (
            "UPDATE watch_files SET path = CAST(path || x'00' || id AS BLOB), gone = ?, status = 'done'"
            " WHERE id = ?"
        )

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(statement, (now_rfc3339(), number))
            _add_logs(connection, number, [line])

        await self._database.run(work)

    async def mark_gone(self, numbers: Iterable[int]) -> None:
        """Mark these files as missing."""
        rows = [(now_rfc3339(), number) for number in numbers]
        await self._database.run(
            lambda connection: connection.executemany("UPDATE watch_files SET gone = ? WHERE id = ?", rows)
        )

    async def rename(self, number: int, path: str, identity: Identity, watch: str) -> None:
        """Record the new path of a renamed file."""

        def work(connection: sqlite3.Connection) -> None:
            update_file(connection, number, path=path, identity=identity, gone=None)
            add_log(
                connection, watch, LogLine("moved", path, "It was renamed; its texts are renamed with it.")
            )

        await self._database.run(work)


def put_file(
    connection: sqlite3.Connection,
    watch: str,
    seen: Seen,
    content_hash: str | None,
    *,
    job: str | None = None,
    attempts: int = 0,
) -> int:
    """Record a file that was taken, with its job if there is one, and return its id.

    The last error of a file that has failed before is kept. Raises `watch.unknown` if the watch was removed
    in the meantime: then no job must be created either.
    """
    identity, path = seen.identity, os.fsencode(seen.path)
    connection.execute(
        "INSERT INTO watch_files (watch, path, inode, size, modified, hash, status, job, attempts)"
        " SELECT id, ?, ?, ?, ?, ?, ?, ?, ? FROM watches WHERE id = ? ON CONFLICT (watch, path) DO UPDATE SET"
        " inode = excluded.inode, size = excluded.size, modified = excluded.modified, hash = excluded.hash,"
        " status = excluded.status, job = excluded.job, attempts = excluded.attempts, retry_at = NULL,"
        " error = CASE WHEN excluded.attempts THEN error END, gone = NULL",
        (
            path,
            identity.inode,
            identity.size_bytes,
            identity.modified_ns,
            content_hash,
            "lost" if job is None else "working",
            job,
            attempts,
            watch,
        ),
    )
    # Without RETURNING, which SQLite 3.34 lacks: Debian 11 and Red Hat 9 have it.
    query = "SELECT id FROM watch_files WHERE watch = ? AND path = ?"
    row = connection.execute(query, (watch, path)).fetchone()
    if row is None:
        raise unknown_watch(watch)
    return int(row[0])


def update_file(connection: sqlite3.Connection, number: int, **values: Any) -> None:
    """Change fields of a file."""
    columns: dict[str, Any] = {}
    for field, value in values.items():
        if field == "identity":
            columns |= {"inode": value.inode, "size": value.size_bytes, "modified": value.modified_ns}
        elif field == "path":
            columns["path"] = os.fsencode(value)
        elif field == "error":
            columns["error"] = value and msgspec.json.encode(value).decode()
        else:
            columns[field] = value
    assignments = ", ".join(f"{column} = ?" for column in columns)
    statement = f"UPDATE watch_files SET {assignments} WHERE id = ?"  # noqa: S608 - our columns
    connection.execute(statement, (*columns.values(), number))


def one_file(connection: sqlite3.Connection, condition: str, values: Sequence[Any]) -> FileRow | None:
    """Return the first file that matches an SQL condition."""
    found = _files(connection, condition, values)
    return found[0] if found else None


def _add_logs(connection: sqlite3.Connection, number: int, lines: Sequence[LogLine]) -> None:
    row = connection.execute("SELECT watch FROM watch_files WHERE id = ?", (number,)).fetchone()
    for line in lines if row else ():
        add_log(connection, row[0], line)


def _files(connection: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[FileRow]:
    statement = f"SELECT {_COLUMNS} FROM watch_files WHERE {condition}"  # noqa: S608 - our conditions
    return [_file(row) for row in connection.execute(statement, values)]


def _file(row: tuple[Any, ...]) -> FileRow:
    number, watch, path, inode, size, modified, content_hash, status, job, attempts, retry_at, error, gone = (
        row
    )
    return FileRow(
        id=number,
        watch=watch,
        path=os.fsdecode(path),
        identity=Identity(inode, size, modified),
        hash=content_hash,
        status=status,
        job=job,
        attempts=attempts,
        retry_at=retry_at,
        error=_error(error),
        gone=gone,
    )


def _error(text: str | None) -> dict[str, Any] | None:
    """Decode why a file failed; None if that is unreadable, as its status still says that it failed."""
    with suppress(ValueError):
        return None if text is None else msgspec.json.decode(text, type=decodable(dict[str, Any]))
    return None
