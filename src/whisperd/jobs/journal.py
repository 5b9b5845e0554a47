"""The journal of jobs: what was asked for, what is finished, and how it ended."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from whisperd.audio import Found, merge_found
from whisperd.jobs.identity import FileStamp
from whisperd.jobs.job import Job, JobInput, JobStatus
from whisperd.jobs.options import JobOptions
from whisperd.rpc.errors import WhisperdError
from whisperd.store import Saver, Ticket, Writing
from whisperd.worker.protocol import WindowResult

__all__ = [
    "FinishedWindow",
    "JobJournal",
    "JobRecord",
    "decode_record",
    "decode_window",
    "drop_progress",
    "job_of",
    "record_of",
]

log = logging.getLogger(__name__)


class FinishedWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window that was computed: where it lies in the audio, in seconds, and what was said in it."""

    index: int
    start: float
    end: float
    channel: int | None
    language: str | None
    """The one in which it was heard: that of its whole file."""
    elapsed_s: float
    """How long its job had been at work until then."""
    result: WindowResult


_NAMES: Final = {
    "is_detached": "detached",
    "is_cached": "cached",
    "is_at_work": "at_work",
    "duration_s": "duration",
    "elapsed_s": "elapsed",
    "done_s": "done",
}
"""What fields are called in the data base, where that is not what jobs call them."""


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, rename=_NAMES):
    """What is kept of a job, by the names that it has there."""

    id: str
    path: bytes
    input: JobInput
    options: JobOptions
    runtime: str
    runtime_id: str | None
    """None for a runtime that was made for once."""
    model: str
    is_detached: bool
    created: str
    stamp: FileStamp | None
    content_hash: str | None
    recipe: str | None
    """The digest of the recipe by which its finished windows were made."""
    status: JobStatus
    """`queued` until it is over: whether it runs is known to its daemon alone."""
    started: str | None
    ended: str | None
    duration_s: float | None
    elapsed_s: float | None
    done_s: float
    speed: float | None
    language: str | None
    is_cached: bool
    error: dict[str, Any] | None
    warnings: tuple[dict[str, Any], ...] = ()
    is_at_work: bool = False
    """Whether windows of it were being computed. If it is not over and its daemon is, it was interrupted."""
    interruptions: int = 0
    finished_at_begin: int = 0


_OUTCOME: Final = ("started", "duration_s", "elapsed_s", "done_s", "speed", "language", "error", "warnings")
"""Fields of a job that is over; one that is not begins anew."""


_encode = msgspec.msgpack.Encoder().encode
_decode_found = msgspec.msgpack.Decoder(Found).decode
decode_window = msgspec.msgpack.Decoder(FinishedWindow).decode
decode_record = msgspec.json.Decoder(JobRecord).decode


def record_of(job: Job) -> JobRecord:
    """What is to be kept of a job as it is now."""
    kept = {name: getattr(job, name) for name in JobRecord.__struct_fields__}
    kept["path"] = os.fsencode(job.path)
    kept["status"] = "queued" if job.ended is None else job.status
    kept["error"] = job.error.to_wire() if job.error else None
    return JobRecord(**kept)


def job_of(record: JobRecord) -> Job:
    """The job that was kept; one that is over is so at once."""
    kept = msgspec.structs.asdict(record)
    kept["path"] = os.fsdecode(record.path)
    kept["error"] = WhisperdError.from_wire(record.error) if record.error else None
    kept["interruptions"] += kept.pop("is_at_work")
    if record.ended is None:
        for name in _OUTCOME:
            del kept[name]
    job = Job(**kept)
    if job.ended is not None:
        job.over.set()
    return job


class JobJournal:
    """Keeps jobs. What changes something returns at once, and the ticket says when it is saved."""

    def __init__(self, saver: Saver) -> None:
        self.saver = saver

    def put(self, job: Job, also: Writing | None = None) -> Ticket:
        """Keep a job as it is now; `also` is done in the same transaction, or neither is."""
        record = record_of(job)

        def write(connection: sqlite3.Connection) -> None:
            put_record(connection, record)
            if also is not None:
                also(connection)

        return self.saver.hand_over(write)

    def add_windows(self, job: str, windows: Sequence[FinishedWindow]) -> Ticket:
        """Keep what is finished of a job, together or not at all."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(
                # Not if the job was forgotten meanwhile.
                "INSERT OR REPLACE INTO job_windows SELECT id, ?, ? FROM jobs WHERE id = ?",
                [(one.index, _encode(one), job) for one in windows],
            )

        return self.saver.hand_over(write)

    def add_found(self, job: str, found: Found) -> Ticket:
        """Keep what the decoder of a job has found."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO job_speech"
                " SELECT id, (SELECT ifnull(max(place) + 1, 0) FROM job_speech WHERE job = id), ? FROM jobs"
                " WHERE id = ?",
                (_encode(found), job),
            )

        return self.saver.hand_over(write)

    def drop_progress(self, job: str) -> Ticket:
        """Forget what is finished of a job, and what was found."""
        return self.saver.hand_over(lambda connection: drop_progress(connection, job))

    def forget(self, jobs: Iterable[str]) -> Ticket:
        """Forget jobs."""
        rows = [(job,) for job in jobs]
        return self.saver.hand_over(
            lambda connection: connection.executemany("DELETE FROM jobs WHERE id = ?", rows)
        )

    async def load(self) -> list[JobRecord]:
        """Every job, the oldest first. One that cannot be read is left out."""

        def work(connection: sqlite3.Connection) -> list[JobRecord]:
            rows = connection.execute("SELECT id, record FROM jobs ORDER BY created, rowid")
            return [record for id_, text in rows if (record := _readable(id_, text)) is not None]

        return await self.saver.database.run(work)

    async def drop_all_progress(self) -> int:
        """Forget what is finished of all jobs; returns how many windows."""

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM job_speech")
            return connection.execute("DELETE FROM job_windows").rowcount

        return await self.saver.database.run(work)

    async def windows(self, job: str) -> dict[int, FinishedWindow]:
        """What is finished of a job, by its place. What cannot be read is not finished."""

        def work(connection: sqlite3.Connection) -> dict[int, FinishedWindow]:
            found = {}  # decoded here, in the thread: a day has thousands
            for (data,) in connection.execute("SELECT finished FROM job_windows WHERE job = ?", (job,)):
                try:
                    window = decode_window(data)
                except (ValueError, TypeError):
                    log.warning("job %s: a saved window cannot be read; computing it again", job)
                else:
                    found[window.index] = window
            return found

        return await self.saver.database.run(work)

    async def found(self, job: str) -> tuple[Found, ...]:
        """What the decoder of a job has found. Where it cannot be read, nothing was."""

        def work(connection: sqlite3.Connection) -> tuple[Found, ...]:
            rows = connection.execute("SELECT found FROM job_speech WHERE job = ? ORDER BY place", (job,))
            try:
                return merge_found([_decode_found(data) for (data,) in rows])
            except (ValueError, TypeError):
                log.warning("job %s: the saved speech positions cannot be read", job)
                return ()

        return await self.saver.database.run(work)


def put_record(connection: sqlite3.Connection, record: JobRecord, transcript: int | None = None) -> None:
    """Keep a job as it is now, in a transaction."""
    connection.execute(
        "INSERT INTO jobs (id, created, ended, transcript, record) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET"
        " ended = excluded.ended, transcript = excluded.transcript, record = excluded.record",
        (record.id, record.created, record.ended, transcript, msgspec.json.encode(record).decode()),
    )


def drop_progress(connection: sqlite3.Connection, job: str) -> None:
    """Forget what is finished of a job, and what was found, in a transaction."""
    connection.execute("DELETE FROM job_windows WHERE job = ?", (job,))
    connection.execute("DELETE FROM job_speech WHERE job = ?", (job,))


def _readable(id_: str, text: str) -> JobRecord | None:
    try:
        return decode_record(text)
    except ValueError as error:
        log.warning("job %s: its record in the journal cannot be read: %s", id_, error)
        return None
