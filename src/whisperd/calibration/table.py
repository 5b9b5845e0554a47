"""The calibrations in the database: one for each model and fingerprint of the circumstances."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import msgspec
from anyio import to_thread

from whisperd.calibration.values import Calibration
from whisperd.decodable import decodable
from whisperd.store import Database

__all__ = ["CalibrationTable", "copy_calibrations"]

KEPT = 4
"""The number of calibrations kept per model, one per fingerprint: a laptop may be docked or undocked."""


class CalibrationTable:
    """All calibrations, cached in memory: they are read once and queried often."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[tuple[str, str], Calibration] = {}

    async def open(self) -> None:
        """Read all calibrations. Unreadable ones are ignored."""

        for (text,) in await self._database.execute("SELECT result FROM calibrations ORDER BY time"):
            try:
                one = msgspec.json.decode(text, type=decodable(Calibration))
            except ValueError:
                continue
            self._kept[one.model, one.fingerprint] = one

    def find(self, model: str, fingerprint: str) -> Calibration | None:
        """Return a model's calibration for a fingerprint."""
        return self._kept.get((model, fingerprint))

    def latest(self, model: str) -> Calibration | None:
        """Return a model's latest calibration for any fingerprint."""
        return next((one for one in reversed(self._kept.values()) if one.model == model), None)

    def all(self) -> list[Calibration]:
        """Return all calibrations, the oldest first."""
        return list(self._kept.values())

    async def put(self, calibration: Calibration) -> None:
        """Store a calibration, replacing the one with the same model and fingerprint."""
        key = (calibration.model, calibration.fingerprint)
        row = (*key, calibration.time, msgspec.json.encode(calibration).decode())
        of_model = [other for other in self._kept if other[0] == calibration.model and other != key]
        old = of_model[: -(KEPT - 1)]

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO calibrations VALUES (?, ?, ?, ?)", row)
            connection.executemany("DELETE FROM calibrations WHERE model = ? AND fingerprint = ?", old)

        await self._database.run(work)
        for other in (key, *old):
            self._kept.pop(other, None)  # they may have been deleted meanwhile
        self._kept[key] = calibration  # after the others

    async def forget(self, model: str) -> int:
        """Delete all calibrations of a model, and return how many there were."""

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute("DELETE FROM calibrations WHERE model = ?", (model,)).rowcount

        count = await self._database.run(work)
        self._kept = {key: one for key, one in self._kept.items() if key[0] != model}
        return count


async def copy_calibrations(source: Path, database: Database) -> None:
    """Copy the calibrations of another database, opened read-only, into this one, which must have none.

    A database that is missing or unreadable counts as empty.
    """

    def read() -> list[tuple[str, str, str, str]]:
        with suppress(sqlite3.Error), closing(_opened_to_read(source)) as connection:
            return connection.execute("SELECT model, fingerprint, time, result FROM calibrations").fetchall()
        return []

    rows = await to_thread.run_sync(read)
    await database.run(
        lambda connection: connection.executemany("INSERT INTO calibrations VALUES (?, ?, ?, ?)", rows)
    )


def _opened_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
