"""The table of the watches' logs.

Functions that take a connection run within the caller's transaction; methods are transactions of their own
and raise what `Database.run` raises.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any, NamedTuple

from whisperd.clock import now_rfc3339
from whisperd.rpc.errors import sendable
from whisperd.store import Database

__all__ = ["KEPT_LOG_LINES", "LogLine", "LogTable", "add_log"]

KEPT_LOG_LINES = 5000
"""Lines kept per watch."""


class LogLine(NamedTuple):
    """One event in a watch."""

    event: str
    path: str | None
    message: str


class LogTable:
    """The log of all watches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, watch: str, *lines: LogLine) -> None:
        """Add lines to the log."""

        def work(connection: sqlite3.Connection) -> None:
            for line in lines:
                add_log(connection, watch, line)

        await self._database.run(work)

    async def read(self, watch: str, limit: int) -> list[dict[str, Any]]:
        """Return the last lines of the log, oldest first."""
        rows = await self._database.execute(
            "SELECT time, event, path, message FROM watch_log WHERE watch = ? ORDER BY id DESC LIMIT ?",
            (watch, limit),
        )
        return [
            {"time": time, "event": event, "path": path and os.fsdecode(path), "message": message}
            for time, event, path, message in reversed(rows)
        ]


def add_log(connection: sqlite3.Connection, watch: str, line: LogLine) -> None:
    """Add a line to the log, unless the watch was deleted meanwhile."""
    connection.execute(
        "INSERT INTO watch_log (watch, time, event, path, message)"
        " SELECT id, ?, ?, ?, ? FROM watches WHERE id = ?",
        (now_rfc3339(), line.event, line.path and os.fsencode(line.path), sendable(line.message), watch),
    )
