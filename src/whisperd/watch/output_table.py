"""The table of outputs: files that were written, or are about to be, for each recording.

Functions that take a connection run within the caller's transaction; methods are transactions of their own
and raise what `Database.run` raises.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from whisperd.store import Database
from whisperd.watch.file_table import one_file
from whisperd.watch.ledger import Seen

__all__ = ["OutputRow", "OutputTable", "Wanted", "set_outputs"]


class OutputRow(msgspec.Struct, frozen=True, kw_only=True):
    """An output file that was written or is about to be."""

    path: str
    file: int
    format: str
    language: str
    hash: str | None
    """The SHA-256 of the content; several, separated by spaces, if it is uncertain which was written."""
    next_hash: str | None = None
    """The SHA-256 of the content that will replace it."""

    @property
    def hashes(self) -> frozenset[str]:
        """The hashes of the contents that we may have written there."""
        return frozenset(f"{self.hash or ''} {self.next_hash or ''}".split())


class Wanted(NamedTuple):
    """An output to be written."""

    paths: Iterable[str]
    """Possible paths, the best first."""
    format: str
    language: str
    hash: str


class OutputTable:
    """The outputs of all watches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, number: int) -> list[OutputRow]:
        """Return the outputs of a file that were written or about to be."""
        return await self._database.run(lambda connection: _outputs(connection, "file = ?", (number,)))

    async def absent_from(self, root: str, seen: Sequence[Seen]) -> list[Seen]:
        """Return those of the found files that are not outputs of ours."""

        def work(connection: sqlite3.Connection) -> list[Seen]:
            return [one for one in seen if _output_at(connection, os.path.join(root, one.path)) is None]

        return await self._database.run(work)

    async def places_of(self, content_hash: str) -> list[str]:
        """Return the paths at which outputs with this hash were written."""
        rows = await self._database.execute("SELECT path FROM watch_outputs WHERE hash = ?", (content_hash,))
        return [os.fsdecode(path) for (path,) in rows]

    async def below(self, folder: str) -> list[str]:
        """Return the paths of outputs in a folder and its subfolders."""
        first = os.fsencode(os.path.join(folder, ""))
        beyond = first[:-1] + bytes([first[-1] + 1])
        query = "SELECT path FROM watch_outputs WHERE path > ? AND path < ?"
        return [os.fsdecode(path) for (path,) in await self._database.execute(query, (first, beyond))]

    async def claim(self, number: int, wanted: Sequence[Wanted]) -> tuple[list[OutputRow], list[OutputRow]]:
        """Reserve a name for each output of a file, and record the content about to be written.

        Returns these, and earlier outputs of the file that are no longer wanted.
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
        """Return the first of these paths at which the file may have an output."""
        return await self._database.run(
            lambda connection: next(path for path in paths if _is_free(connection, path, number))
        )

    async def forget(self, path: str) -> None:
        """Delete the record of an output."""
        await self._database.execute("DELETE FROM watch_outputs WHERE path = ?", (os.fsencode(path),))

    async def replace(self, number: int, outputs: Sequence[OutputRow]) -> None:
        """Replace the recorded outputs of a file."""
        await self._database.run(lambda connection: set_outputs(connection, number, outputs))


def set_outputs(connection: sqlite3.Connection, number: int, outputs: Sequence[OutputRow]) -> None:
    """Replace the recorded outputs of a file, unless the file was deleted from the ledger meanwhile."""
    connection.execute("DELETE FROM watch_outputs WHERE file = ?", (number,))
    connection.executemany(
        "INSERT OR REPLACE INTO watch_outputs (path, file, format, language, hash, next_hash)"
        " SELECT ?, id, ?, ?, ?, ? FROM watch_files WHERE id = ?",
        [
            (os.fsencode(one.path), one.format, one.language, one.hash, one.next_hash, number)
            for one in outputs
        ],
    )


def _output_at(connection: sqlite3.Connection, path: str) -> OutputRow | None:
    found = _outputs(connection, "path = ?", (os.fsencode(path),))
    return found[0] if found else None


def _former_hashes(connection: sqlite3.Connection, path: str) -> frozenset[str]:
    """Return the hashes of what a watch that has been removed may have written there."""
    row = connection.execute(
        "SELECT hash FROM former_outputs WHERE path = ?", (os.fsencode(path),)
    ).fetchone()
    return frozenset(row[0].split() if row else ())


def _is_free(connection: sqlite3.Connection, path: str, number: int) -> bool:
    """Whether a file may have an output at a path: nothing else has one there, a missing recording with the
    same bytes had, or another watch has one for the same recording."""
    owner = _output_at(connection, path)
    if owner is None or owner.file == number:
        return True
    theirs, ours = one_file(connection, "id = ?", (owner.file,)), one_file(connection, "id = ?", (number,))
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
