"""The status history of each runtime, stored across restarts of the daemon."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from whisperd.clock import now_rfc3339
from whisperd.decodable import decodable
from whisperd.rpc.events import RuntimeStatusName
from whisperd.store import Saver

__all__ = ["KEPT_STATUS_CHANGES", "HistoryStore", "StatusChange"]

KEPT_STATUS_CHANGES: Final = 50
"""The number of status changes in a runtime's history."""


class StatusChange(msgspec.Struct, frozen=True, kw_only=True):
    """A status change in a runtime's history."""

    time: str
    status: RuntimeStatusName
    detail: str | None
    error: dict[str, Any] | None


class HistoryStore:
    """The histories of all saved runtimes."""

    def __init__(self, saver: Saver) -> None:
        self._saver = saver

    async def resume(self) -> Mapping[str, Sequence[StatusChange]]:
        """Return the stored histories by runtime id, the newest entry last. Unreadable entries are skipped.

        If the last status is not `unloaded`, an entry for the start of this daemon is added: the worker has
        ended with the previous daemon, and a failure no longer counts.
        """

        def work(connection: sqlite3.Connection) -> dict[str, list[StatusChange]]:
            histories: defaultdict[str, list[StatusChange]] = defaultdict(list)
            for runtime, change in connection.execute(
                "SELECT runtime, moment FROM runtime_history ORDER BY rowid"
            ):
                with suppress(ValueError):
                    decoded = msgspec.json.decode(change, type=decodable(StatusChange))
                    histories[runtime].append(decoded)  # not in one line: an unreadable one adds no history
            return histories

        histories = await self._saver.database.run(work)
        for runtime, history in histories.items():
            if history[-1].status != "unloaded":
                restart = StatusChange(
                    time=now_rfc3339(), status="unloaded", detail="daemon started", error=None
                )
                history.append(restart)
                self.add(runtime, restart)
        return histories

    def add(self, runtime: str, change: StatusChange) -> None:
        """Store a status change, and drop the oldest ones. Ignored if the runtime was deleted."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO runtime_history SELECT id, ? FROM runtimes WHERE id = ?",
                (msgspec.json.encode(change).decode(), runtime),
            )
            connection.execute(
                "DELETE FROM runtime_history WHERE runtime = :runtime AND rowid NOT IN (SELECT rowid"
                " FROM runtime_history WHERE runtime = :runtime ORDER BY rowid DESC LIMIT :kept)",
                {"runtime": runtime, "kept": KEPT_STATUS_CHANGES},
            )

        self._saver.hand_over(write)
