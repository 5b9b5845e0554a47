"""Persistence of watches, with their files, outputs and logs."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from whisperd.clock import now_rfc3339
from whisperd.decodable import decodable
from whisperd.store import Database
from whisperd.watch.file_table import FileTable
from whisperd.watch.log_table import KEPT_LOG_LINES, LogTable
from whisperd.watch.output_table import OutputTable
from whisperd.watch.preset import WatchPreset
from whisperd.watch.quiet import parse_quiet_hours

__all__ = ["WatchStore", "check_watches"]

T = TypeVar("T")


class WatchStore:
    """The saved watches. Each method is one transaction, and raises what `Database.run` raises."""

    def __init__(self, database: Database) -> None:
        self.files = FileTable(database)
        self.outputs = OutputTable(database)
        self.log = LogTable(database)
        self._database = database

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run several changes as one transaction."""
        return await self._database.run(work)

    async def load(self) -> list[WatchPreset]:
        """Return every watch, oldest first."""
        rows = await self._database.execute("SELECT preset, path FROM watches ORDER BY rowid")
        return [_preset(*row) for row in rows]

    async def insert(self, preset: WatchPreset) -> None:
        """Save a new watch."""
        row = (preset.id, os.fsencode(preset.path), _encoded(preset))
        await self._database.execute("INSERT INTO watches VALUES (?, ?, ?)", row)

    async def update(self, preset: WatchPreset) -> None:
        """Save a changed watch."""
        row = (_encoded(preset), preset.id)
        await self._database.execute("UPDATE watches SET preset = ? WHERE id = ?", row)

    async def delete(self, watch: str) -> list[str]:
        """Delete a watch and its ledger, but keep the hashes of its outputs, so that a watch added again for
        this folder recognises them.

        Returns the jobs in progress for it. From now on it can get no others.
        """

        def work(connection: sqlite3.Connection) -> list[str]:
            connection.execute(
                "INSERT OR REPLACE INTO former_outputs SELECT watch_outputs.path,"
                " trim(coalesce(watch_outputs.hash, '') || ' ' || coalesce(next_hash, '')), ?"
                " FROM watch_outputs JOIN watch_files ON watch_files.id = file WHERE watch = ?",
                (now_rfc3339(), watch),
            )
            jobs = connection.execute(
                "SELECT job FROM watch_files WHERE watch = ? AND status = 'working' AND job IS NOT NULL",
                (watch,),
            ).fetchall()
            connection.execute("DELETE FROM watches WHERE id = ?", (watch,))
            return [job for (job,) in jobs]

        return await self._database.run(work)

    async def retire(self, watches: Iterable[str], moment: str) -> None:
        """Delete records of files missing since before a moment (RFC 3339), old log lines, and output hashes
        of watches that were removed before it."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM former_outputs WHERE since < ?", (moment,))
            for watch in watches:
                connection.execute("DELETE FROM watch_files WHERE watch = ? AND gone < ?", (watch, moment))
                connection.execute(
                    "DELETE FROM watch_log WHERE watch = :watch AND id <= (SELECT id FROM watch_log"
                    " WHERE watch = :watch ORDER BY id DESC LIMIT 1 OFFSET :kept)",
                    {"watch": watch, "kept": KEPT_LOG_LINES},
                )

        await self._database.run(work)


def check_watches(connection: sqlite3.Connection) -> None:
    """Raise `ValueError` if a saved watch is not valid."""
    for preset, path in connection.execute("SELECT preset, path FROM watches"):
        _preset(preset, path)


def _encoded(preset: WatchPreset) -> str:
    values = {name: value for name, value in msgspec.structs.asdict(preset).items() if name != "path"}
    return msgspec.json.encode(values).decode()


def _preset(text: str, path: bytes) -> WatchPreset:
    try:
        values = {**msgspec.json.decode(text), "path": os.fsdecode(path)}
        preset = msgspec.convert(values, decodable(WatchPreset))
        if preset.quiet_hours is not None:
            parse_quiet_hours(preset.quiet_hours)
    except (ValueError, TypeError) as error:
        raise ValueError(f"it contains an invalid watch folder ({error})") from error
    return preset
