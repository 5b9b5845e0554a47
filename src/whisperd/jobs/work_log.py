"""How much was transcribed per day: counted across restarts, and for longer than jobs are remembered."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from whisperd.clock import local_now
from whisperd.store import Saver

__all__ = ["Work", "WorkLog"]


@dataclass(frozen=True)
class Work:
    """Amount of work. Jobs answered by a stored transcript do not count."""

    jobs: int = 0
    audio_s: float = 0.0
    elapsed_s: float = 0.0

    @property
    def speed(self) -> float | None:
        """Seconds of audio per second of job time."""
        return round(self.audio_s / self.elapsed_s, 2) if self.elapsed_s else None

    def __add__(self, other: Work) -> Work:
        return Work(self.jobs + other.jobs, self.audio_s + other.audio_s, self.elapsed_s + other.elapsed_s)


class WorkLog:
    """The work of all days, loaded once and kept in memory; additions are saved with the jobs."""

    def __init__(
        self,
        saver: Saver,
        today: Callable[[], datetime.date] = lambda: local_now().date(),
    ) -> None:
        self._saver = saver
        self._today = today
        self._before = Work()
        self._days: dict[str, Work] = {}

    async def open(self) -> None:
        """Load the totals."""
        day = self._today().isoformat()
        # Unlike `sum`, `total` cannot overflow.
        columns = "CAST(total(jobs) AS INTEGER), total(audio_s), total(elapsed_s)"

        def read(connection: sqlite3.Connection) -> tuple[Work, Work]:
            others = connection.execute(f"SELECT {columns} FROM work WHERE day <> ?", (day,)).fetchone()  # noqa: S608
            today = connection.execute(f"SELECT {columns} FROM work WHERE day = ?", (day,)).fetchone()  # noqa: S608
            return Work(*others), Work(*today)

        self._before, self._days[day] = await self._saver.database.run(read)

    def add(self, audio_s: float, elapsed_s: float) -> None:
        """Count a completed job."""
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
        """Work since midnight, in this computer's time zone."""
        return self._days.get(self._today().isoformat(), Work())

    @property
    def total(self) -> Work:
        """Total work."""
        return sum(self._days.values(), self._before)
