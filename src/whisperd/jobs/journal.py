"""The journal of jobs: their parameters, their finished windows, and how they ended."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from whisperd.audio import Found, merge_found
from whisperd.decodable import decodable
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
    """A computed window: its place in the audio, in seconds, and its result."""

    index: int
    start: float
    end: float
    channel: int | None
    language: str | None
    """The language in which it was transcribed: that of the whole file."""
    elapsed_s: float
    """How long its job had been running by then."""
    result: WindowResult


_NAMES: Final = {
    "is_detached": "detached",
    "is_cached": "cached",
    "is_at_work": "at_work",
    "duration_s": "duration",
    "elapsed_s": "elapsed",
    "done_s": "done",
}
"""Names of fields in the database, where they differ from those of `Job`."""


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, rename=_NAMES):
    """The stored record of a job, with the field names used in the database."""

    id: str
    path: bytes
    input: JobInput
    options: JobOptions
    runtime: str
    runtime_id: str | None
    """None for a runtime created for one job only."""
    model: str
    is_detached: bool
    created: str
    stamp: FileStamp | None
    content_hash: str | None
    recipe: str | None
    """The digest of the recipe of its finished windows."""
    status: JobStatus
    """`queued` until it ends; only its daemon knows whether it runs."""
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
    """Whether its windows were being computed. If its daemon ended before the job did, it was interrupted."""
    interruptions: int = 0
    finished_at_begin: int = 0


_OUTCOME: Final = ("started", "duration_s", "elapsed_s", "done_s", "speed", "language", "error", "warnings")
"""Fields of a job that ended; an unfinished one starts without them."""


_encode = msgspec.msgpack.Encoder().encode
_decode_found = msgspec.msgpack.Decoder(decodable(Found)).decode
decode_window = msgspec.msgpack.Decoder(decodable(FinishedWindow)).decode
decode_record = msgspec.json.Decoder(decodable(JobRecord)).decode


def record_of(job: Job) -> JobRecord:
    """Return the record of a job in its current state."""
    kept = {name: getattr(job, name) for name in JobRecord.__struct_fields__}
    kept["path"] = os.fsencode(job.path)
    kept["status"] = "queued" if job.ended is None else job.status
    kept["error"] = job.error.to_wire() if job.error else None
    return JobRecord(**kept)


def job_of(record: JobRecord) -> Job:
    """Return the job of a record; if it had ended, it is over at once."""
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
    """Stores jobs. Writing methods return at once; the ticket reports when the data is saved."""

    def __init__(self, saver: Saver) -> None:
        self.saver = saver

    def put(self, job: Job, also: Writing | None = None) -> Ticket:
        """Save the current state of a job; `also` runs in the same transaction."""
        record = record_of(job)

        def write(connection: sqlite3.Connection) -> None:
            put_record(connection, record)
            if also is not None:
                also(connection)

        return self.saver.hand_over(write)

    def add_windows(self, job: str, windows: Sequence[FinishedWindow]) -> Ticket:
        """Save finished windows of a job in one transaction."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(
                # No row is inserted if the job was forgotten meanwhile.
                "INSERT OR REPLACE INTO job_windows SELECT id, ?, ? FROM jobs WHERE id = ?",
                [(one.index, _encode(one), job) for one in windows],
            )

        return self.saver.hand_over(write)

    def add_found(self, job: str, found: Found) -> Ticket:
        """Save what the decoder of a job has found."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO job_speech"
                " SELECT id, (SELECT ifnull(max(place) + 1, 0) FROM job_speech WHERE job = id), ? FROM jobs"
                " WHERE id = ?",
                (_encode(found), job),
            )

        return self.saver.hand_over(write)

    def drop_progress(self, job: str) -> Ticket:
        """Delete the finished windows of a job, and what its decoder found."""
        return self.saver.hand_over(lambda connection: drop_progress(connection, job))

    def forget(self, jobs: Iterable[str]) -> Ticket:
        """Delete jobs."""
        rows = [(job,) for job in jobs]
        return self.saver.hand_over(
            lambda connection: connection.executemany("DELETE FROM jobs WHERE id = ?", rows)
        )

    async def load(self) -> list[JobRecord]:
        """Return every job, oldest first, except records that cannot be read."""

        def work(connection: sqlite3.Connection) -> list[JobRecord]:
            rows = connection.execute("SELECT id, record FROM jobs ORDER BY created, rowid")
            return [record for id_, text in rows if (record := _readable(id_, text)) is not None]

        return await self.saver.database.run(work)

    async def drop_all_progress(self) -> int:
        """Delete the finished windows of all jobs; returns their number."""

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM job_speech")
            return connection.execute("DELETE FROM job_windows").rowcount

        return await self.saver.database.run(work)

    async def windows(self, job: str) -> dict[int, FinishedWindow]:
        """Return the finished windows of a job by index. One that cannot be read counts as unfinished."""

        def work(connection: sqlite3.Connection) -> dict[int, FinishedWindow]:
            found = {}  # decoded in this thread, since a day of audio has thousands
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
        """Return what the decoder of a job has found; nothing if that cannot be read."""

        def work(connection: sqlite3.Connection) -> tuple[Found, ...]:
            rows = connection.execute("SELECT found FROM job_speech WHERE job = ? ORDER BY place", (job,))
            try:
                return merge_found([_decode_found(data) for (data,) in rows])
            except (ValueError, TypeError):
                log.warning("job %s: the saved speech positions cannot be read", job)
                return ()

        return await self.saver.database.run(work)


def put_record(connection: sqlite3.Connection, record: JobRecord, transcript: int | None = None) -> None:
    """Save a job record, within a transaction."""
    connection.execute(
        "INSERT INTO jobs (id, created, ended, transcript, record) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET"
        " ended = excluded.ended, transcript = excluded.transcript, record = excluded.record",
        (record.id, record.created, record.ended, transcript, msgspec.json.encode(record).decode()),
    )


def drop_progress(connection: sqlite3.Connection, job: str) -> None:
    """Delete the finished windows of a job and what its decoder found, within a transaction."""
    connection.execute("DELETE FROM job_windows WHERE job = ?", (job,))
    connection.execute("DELETE FROM job_speech WHERE job = ?", (job,))


def _readable(id_: str, text: str) -> JobRecord | None:
    try:
        return decode_record(text)
    except ValueError as error:
        log.warning("job %s: its record in the journal cannot be read: %s", id_, error)
        return None
