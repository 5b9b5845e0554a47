"""How much was transcribed, day by day: counted over restarts, and for longer than jobs are remembered."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from whisperd.store import Saver

__all__ = ["Work", "WorkLog"]


@dataclass(frozen=True)
class Work:
    """What was done. Jobs that a kept transcript has answered are none."""

    jobs: int = 0
    audio_s: float = 0.0
    elapsed_s: float = 0.0

    @property
    def speed(self) -> float | None:
        """Seconds of audio transcribed in a second of a job."""
        return round(self.audio_s / self.elapsed_s, 2) if self.elapsed_s else None

    def __add__(self, other: Work) -> Work:
        return Work(self.jobs + other.jobs, self.audio_s + other.audio_s, self.elapsed_s + other.elapsed_s)


class WorkLog:
    """The work of all days. It is read once, and asked often; what is added is saved with the jobs."""

    def __init__(
        self,
        saver: Saver,
        today: Callable[[], datetime.date] = lambda: datetime.datetime.now().astimezone().date(),
    ) -> None:
        self._saver = saver
        self._today = today
        self._before = Work()
        self._days: dict[str, Work] = {}

    async def open(self) -> None:
        """Read what was done."""
        day = self._today().isoformat()
        # Unlike a sum, a total is never too large for a number.
        columns = "CAST(total(jobs) AS INTEGER), total(audio_s), total(elapsed_s)"

        def read(connection: sqlite3.Connection) -> tuple[Work, Work]:
            others = connection.execute(f"SELECT {columns} FROM work WHERE day <> ?", (day,)).fetchone()  # noqa: S608
            today = connection.execute(f"SELECT {columns} FROM work WHERE day = ?", (day,)).fetchone()  # noqa: S608
            return Work(*others), Work(*today)

        self._before, self._days[day] = await self._saver.database.run(read)

    def add(self, audio_s: float, elapsed_s: float) -> None:
        """A job was completed."""
        day = self._today().isoformat()
        self._days[day] = self._days.get(day, Work()) + Work(1, audio_s, elapsed_s)
        self._saver.hand_over(
            lambda connection: connection.execute(
                "INSERT INTO work VALUES (?, 1, ?, ?) ON CONFLICT (day) DO UPDATE SET jobs = jobs + 1,"
                " audio_s = audio_s + excluded.audio_s, elapsed_s = elapsed_s + excluded.elapsed_s",
                (day, audio_s, elapsed_s),
            )
        )

    @property
    def today(self) -> Work:
        """What was done since midnight, by the clock of this computer."""
        return self._days.get(self._today().isoformat(), Work())

    @property
    def total(self) -> Work:
        """All that was done."""
        return sum(self._days.values(), self._before)
