"""Where watches, their ledger and their log are kept.

Functions with a connection are parts of somebody's transaction; methods are transactions of their own, and
raise what `Database.run` raises.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from whisperd.clock import now_rfc3339
from whisperd.rpc.errors import sendable
from whisperd.store import Database
from whisperd.watch.ledger import FileRow, FileStatus, Identity, Seen
from whisperd.watch.preset import WatchPreset

__all__ = [
    "LogLine",
    "OutputRow",
    "Wanted",
    "WatchStore",
    "add_log",
    "check_watches",
    "put_file",
    "set_outputs",
    "update_file",
]

T = TypeVar("T")

KEPT_LOG_LINES = 5000
"""Of each watch."""

_COLUMNS = "id, watch, path, inode, size, modified, hash, status, job, attempts, retry_at, error, gone"


class LogLine(NamedTuple):
    """Something that happened."""

    event: str
    path: str | None
    message: str


class OutputRow(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was written, or is about to be."""

    path: str
    file: int
    format: str
    language: str
    hash: str | None
    """The SHA-256 of what was written; of all that it may be, where that is not certain, with spaces."""
    next_hash: str | None = None
    """Of what takes its place."""

    @property
    def hashes(self) -> frozenset[str]:
        """What may be there that is ours."""
        return frozenset(f"{self.hash or ''} {self.next_hash or ''}".split())


class Wanted(NamedTuple):
    """An output that is to be written."""

    paths: Iterable[str]
    """Where, the best place first."""
    format: str
    language: str
    hash: str


class WatchStore:
    """The watches of one daemon, which its socket tells from others."""

    def __init__(self, database: Database, daemon: str) -> None:
        self._database = database
        self._daemon = daemon

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do several things together or not at all."""
        return await self._database.run(work)

    async def load(self) -> list[WatchPreset]:
        """Every watch, the oldest first."""
        rows = await self._database.run(
            lambda connection: connection.execute(
                "SELECT preset, path FROM watches WHERE daemon = ? ORDER BY rowid", (self._daemon,)
            ).fetchall()
        )
        return [_preset(*row) for row in rows]

    async def insert(self, preset: WatchPreset) -> None:
        """Save a new watch."""
        row = (preset.id, self._daemon, os.fsencode(preset.path), _encoded(preset))
        await self._database.run(
            lambda connection: connection.execute("INSERT INTO watches VALUES (?, ?, ?, ?)", row)
        )

    async def update(self, preset: WatchPreset) -> None:
        """Save what was changed of a watch."""
        row = (_encoded(preset), preset.id)
        await self._database.run(
            lambda connection: connection.execute("UPDATE watches SET preset = ? WHERE id = ?", row)
        )

    async def delete(self, watch: str) -> None:
        """Forget a watch and its ledger, but for what it has written: who adds it anew has the same texts."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO former_outputs SELECT watch_outputs.path,"
                " trim(coalesce(watch_outputs.hash, '') || ' ' || coalesce(next_hash, '')), ?"
                " FROM watch_outputs JOIN watch_files ON watch_files.id = file WHERE watch = ?",
                (now_rfc3339(), watch),
            )
            connection.execute("DELETE FROM watches WHERE id = ?", (watch,))

        await self._database.run(work)

    async def look_up(
        self, watch: str, seen: Sequence[Seen]
    ) -> list[tuple[Seen, FileRow | None, list[FileRow]]]:
        """Of files that were seen, what is known by their paths, and else by their inodes."""

        def work(connection: sqlite3.Connection) -> list[tuple[Seen, FileRow | None, list[FileRow]]]:
            found = []
            for one in seen:
                known = _one(connection, "watch = ? AND path = ?", (watch, os.fsencode(one.path)))
                others = (
                    []
                    if known
                    else _files(connection, "watch = ? AND inode = ?", (watch, one.identity.inode))
                )
                found.append((one, known, others))
            return found

        return await self._database.run(work)

    async def without_outputs(self, root: str, seen: Sequence[Seen]) -> list[Seen]:
        """Of files that were seen in a folder, those that we have not written."""

        def work(connection: sqlite3.Connection) -> list[Seen]:
            return [one for one in seen if _output_at(connection, os.path.join(root, one.path)) is None]

        return await self._database.run(work)

    async def file(self, number: int) -> FileRow | None:
        """A file of the ledger."""
        return await self._database.run(lambda connection: _one(connection, "id = ?", (number,)))

    async def file_at(self, watch: str, path: str) -> FileRow | None:
        """What is known by a path."""
        return await self._database.run(
            lambda connection: _one(connection, "watch = ? AND path = ?", (watch, os.fsencode(path)))
        )

    async def files(
        self, watch: str, statuses: Sequence[FileStatus], *, after: int = 0, limit: int = -1
    ) -> list[FileRow]:
        """Those with one of these statuses, by their numbers."""
        marks = ", ".join("?" * len(statuses))
        return await self._database.run(
            lambda connection: _files(
                connection,
                f"watch = ? AND status IN ({marks}) AND id > ? ORDER BY id LIMIT ?",
                (watch, *statuses, after, limit),
            )
        )

    async def present(self, watch: str, after: int, limit: int) -> list[FileRow]:
        """Those that were there when they were seen last, by their numbers."""
        return await self._database.run(
            lambda connection: _files(
                connection, "watch = ? AND gone IS NULL AND id > ? ORDER BY id LIMIT ?", (watch, after, limit)
            )
        )

    async def below(self, watch: str, folder: str) -> list[FileRow]:
        """Those that were there, at a path or below it."""
        path = os.fsencode(folder)
        return await self._database.run(
            lambda connection: _files(
                connection,
                "watch = ?1 AND gone IS NULL AND (path = ?2 OR (path >= ?3 AND path < ?4))",
                (watch, path, path + b"/", path + b"0"),  # 0 is what follows the slash
            )
        )

    async def counts(self, watch: str) -> dict[str, int]:
        """How many files there are with each status, of those that are there or done."""
        return await self._database.run(
            lambda connection: dict(
                connection.execute(
                    "SELECT status, count(*) FROM watch_files"
                    " WHERE watch = ? AND (gone IS NULL OR status = 'done') GROUP BY status",
                    (watch,),
                )
            )
        )

    async def update_file(self, number: int, *log: LogLine, **values: Any) -> None:
        """Change fields of a file, and say so in the log."""

        def work(connection: sqlite3.Connection) -> None:
            update_file(connection, number, **values)
            _add_logs(connection, number, log)

        await self._database.run(work)

    async def put_file(
        self, watch: str, seen: Seen, content_hash: str | None, *, attempts: int, status: FileStatus
    ) -> int:
        """A file was taken, and there is no job for it."""
        return await self._database.run(
            lambda connection: put_file(
                connection, watch, seen, content_hash, job=None, attempts=attempts, status=status
            )
        )

    async def put_away(self, number: int) -> None:
        """A file was moved away or deleted by us: another one of that name is a new one.

        Its own name gets a NUL, which no file's can have.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE watch_files SET path = CAST(path || x'00' || id AS BLOB), gone = ?, status = 'done'"
                " WHERE id = ?",
                (now_rfc3339(), number),
            )

        await self._database.run(work)

    async def mark_gone(self, numbers: Iterable[int]) -> None:
        """These files are not there any more."""
        rows = [(now_rfc3339(), number) for number in numbers]
        await self._database.run(
            lambda connection: connection.executemany("UPDATE watch_files SET gone = ? WHERE id = ?", rows)
        )

    async def rename(self, number: int, path: str, identity: Identity, watch: str) -> None:
        """A file has another name now."""

        def work(connection: sqlite3.Connection) -> None:
            update_file(connection, number, path=path, identity=identity, gone=None)
            add_log(
                connection, watch, LogLine("moved", path, "It was renamed; what was written for it follows.")
            )

        await self._database.run(work)

    async def forget_file(self, number: int) -> None:
        """Forget a file; what was written for it stays, and is somebody else's from now on."""
        await self._database.run(
            lambda connection: connection.execute("DELETE FROM watch_files WHERE id = ?", (number,))
        )

    async def outputs(self, number: int) -> list[OutputRow]:
        """What was written for a file, or was about to be."""
        return await self._database.run(lambda connection: _outputs(connection, "file = ?", (number,)))

    async def places_of(self, content_hash: str) -> list[str]:
        """Where outputs with this hash were written."""
        return await self._database.run(
            lambda connection: [row.path for row in _outputs(connection, "hash = ?", (content_hash,))]
        )

    async def claim(self, number: int, wanted: Sequence[Wanted]) -> tuple[list[OutputRow], list[OutputRow]]:
        """Reserve a name for each output of a file, and note what is about to be written.

        Returns these, and what was written for the file before and is not wanted any more.
        """

        def work(connection: sqlite3.Connection) -> tuple[list[OutputRow], list[OutputRow]]:
            before = {row.path: row for row in _outputs(connection, "file = ?", (number,))}
            claimed: list[OutputRow] = []
            for one in wanted:
                taken = {row.path for row in claimed}
                path = next(
                    path
                    for path in one.paths
                    if path not in taken and (path in before or _is_free(connection, path, number))
                )
                owner = before.pop(path, None) or _output_at(connection, path)
                ours = owner.hashes if owner else _former_hashes(connection, path)
                claimed.append(
                    OutputRow(
                        path=path,
                        file=number,
                        format=one.format,
                        language=one.language,
                        hash=" ".join(sorted(ours)) or None,
                        next_hash=one.hash,
                    )
                )
            stale = list(before.values())
            set_outputs(connection, number, [*claimed, *stale])
            return claimed, stale

        return await self._database.run(work)

    async def free_place(self, number: int, paths: Iterable[str]) -> str:
        """The first of these places where a file may have an output."""
        return await self._database.run(
            lambda connection: next(path for path in paths if _is_free(connection, path, number))
        )

    async def set_outputs(self, number: int, outputs: Sequence[OutputRow]) -> None:
        """What was written for a file, in place of what was said before."""
        await self._database.run(lambda connection: set_outputs(connection, number, outputs))

    async def log(self, watch: str, *lines: LogLine) -> None:
        """Say what happened."""

        def work(connection: sqlite3.Connection) -> None:
            for line in lines:
                add_log(connection, watch, line)

        await self._database.run(work)

    async def read_log(self, watch: str, limit: int) -> list[dict[str, Any]]:
        """The last lines of the log, the oldest first."""
        rows = await self._database.run(
            lambda connection: connection.execute(
                "SELECT time, event, path, message FROM watch_log WHERE watch = ? ORDER BY id DESC LIMIT ?",
                (watch, limit),
            ).fetchall()
        )
        return [
            {"time": time, "event": event, "path": path and os.fsdecode(path), "message": message}
            for time, event, path, message in reversed(rows)
        ]

    async def retire(self, watch: str, moment: str) -> None:
        """Forget files that have been gone since before a moment (RFC 3339), and old lines of the log."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM watch_files WHERE watch = ? AND gone < ?", (watch, moment))
            connection.execute("DELETE FROM former_outputs WHERE since < ?", (moment,))
            connection.execute(
                "DELETE FROM watch_log WHERE watch = ?1 AND id <= (SELECT id FROM watch_log WHERE watch = ?1"
                " ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                (watch, KEPT_LOG_LINES),
            )

        await self._database.run(work)


def put_file(
    connection: sqlite3.Connection,
    watch: str,
    seen: Seen,
    content_hash: str | None,
    *,
    job: str | None,
    attempts: int,
    status: FileStatus = "working",
) -> int:
    """A file was taken, and perhaps a job for it; returns its number."""
    identity = seen.identity
    (number,) = connection.execute(
        "INSERT INTO watch_files (watch, path, inode, size, modified, hash, status, job, attempts)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (watch, path) DO UPDATE SET"
        " inode = excluded.inode, size = excluded.size, modified = excluded.modified, hash = excluded.hash,"
        " status = excluded.status, job = excluded.job, attempts = excluded.attempts, retry_at = NULL,"
        " error = NULL, gone = NULL RETURNING id",
        (
            watch,
            os.fsencode(seen.path),
            identity.inode,
            identity.size_bytes,
            identity.modified_ns,
            content_hash,
            status,
            job,
            attempts,
        ),
    ).fetchone()
    return int(number)


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


def set_outputs(connection: sqlite3.Connection, number: int, outputs: Sequence[OutputRow]) -> None:
    """What was written for a file, in place of what was said before."""
    connection.execute("DELETE FROM watch_outputs WHERE file = ?", (number,))
    connection.executemany(
        "INSERT OR REPLACE INTO watch_outputs (path, file, format, language, hash, next_hash)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (os.fsencode(one.path), number, one.format, one.language, one.hash, one.next_hash)
            for one in outputs
        ],
    )


def add_log(connection: sqlite3.Connection, watch: str, line: LogLine) -> None:
    """Say what happened. Not if the watch was forgotten meanwhile."""
    connection.execute(
        "INSERT INTO watch_log (watch, time, event, path, message)"
        " SELECT id, ?, ?, ?, ? FROM watches WHERE id = ?",
        (now_rfc3339(), line.event, line.path and os.fsencode(line.path), sendable(line.message), watch),
    )


def check_watches(connection: sqlite3.Connection) -> None:
    """Raise `ValueError` if a watch that is saved cannot be used."""
    for preset, path in connection.execute("SELECT preset, path FROM watches"):
        _preset(preset, path)


def _add_logs(connection: sqlite3.Connection, number: int, lines: Sequence[LogLine]) -> None:
    row = connection.execute("SELECT watch FROM watch_files WHERE id = ?", (number,)).fetchone()
    for line in lines if row else ():
        add_log(connection, row[0], line)


def _encoded(preset: WatchPreset) -> str:
    values = {name: value for name, value in msgspec.structs.asdict(preset).items() if name != "path"}
    return msgspec.json.encode(values).decode()


def _preset(text: str, path: bytes) -> WatchPreset:
    try:
        return msgspec.convert({**msgspec.json.decode(text), "path": os.fsdecode(path)}, WatchPreset)
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"a watch in it is not valid ({error})") from error


def _files(connection: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[FileRow]:
    statement = f"SELECT {_COLUMNS} FROM watch_files WHERE {condition}"  # noqa: S608 - our conditions
    return [_file(row) for row in connection.execute(statement, values)]


def _one(connection: sqlite3.Connection, condition: str, values: Sequence[Any]) -> FileRow | None:
    found = _files(connection, condition, values)
    return found[0] if found else None


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
        error=error and msgspec.json.decode(error),
        gone=gone,
    )


def _output_at(connection: sqlite3.Connection, path: str) -> OutputRow | None:
    found = _outputs(connection, "path = ?", (os.fsencode(path),))
    return found[0] if found else None


def _former_hashes(connection: sqlite3.Connection, path: str) -> frozenset[str]:
    """What may lie there that was written for a watch that was removed."""
    row = connection.execute(
        "SELECT hash FROM former_outputs WHERE path = ?", (os.fsencode(path),)
    ).fetchone()
    return frozenset(row[0].split() if row else ())


def _is_free(connection: sqlite3.Connection, path: str, number: int) -> bool:
    """Whether a file may have an output there: nothing else has, or a recording with the same bytes had, or
    the same recording has, in another watch."""
    owner = _output_at(connection, path)
    if owner is None or owner.file == number:
        return True
    theirs, ours = _one(connection, "id = ?", (owner.file,)), _one(connection, "id = ?", (number,))
    if theirs is None or ours is None:
        return True
    if theirs.watch != ours.watch and theirs.identity == ours.identity:
        return True
    return theirs.gone is not None and theirs.hash is not None and theirs.hash == ours.hash


def _outputs(connection: sqlite3.Connection, condition: str, values: Sequence[Any]) -> list[OutputRow]:
    rows = connection.execute(
        f"SELECT path, file, format, language, hash, next_hash FROM watch_outputs WHERE {condition}",  # noqa: S608
        values,
    )
    return [
        OutputRow(
            path=os.fsdecode(path),
            file=file,
            format=format_name,
            language=language,
            hash=hashed,
            next_hash=next_hash,
        )
        for path, file, format_name, language, hashed, next_hash in rows
    ]
