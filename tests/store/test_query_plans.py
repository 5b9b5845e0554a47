"""Queries for single files and jobs use an index, so that their cost does not grow with the tables."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from whisperd.audio.messages import Found
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.journal import FinishedWindow, JobJournal, record_of
from whisperd.jobs.options import JobOptions
from whisperd.jobs.segments import Transcript
from whisperd.jobs.transcripts import StoredTranscript, TranscriptStore, insert_transcript
from whisperd.store import Database, Saver, open_database
from whisperd.watch import WatchPreset, WatchStore
from whisperd.watch.ledger import Identity, Seen
from whisperd.watch.log_table import LogLine
from whisperd.watch.output_table import Wanted
from whisperd.worker.protocol import WindowResult

pytestmark = pytest.mark.anyio

MOMENT = "2026-01-02T03:04:05.678Z"
SEEN = Seen("a.wav", Identity("801:7", 5, 5))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "store.sqlite3") as database:
        yield database


@contextmanager
def no_scan(database: Database) -> Iterator[None]:
    """Assert that there are queries in this block, which use indexes and work in SQLite 3.34."""
    asked: list[str] = []
    database._connection.set_trace_callback(asked.append)
    try:
        yield
    finally:
        database._connection.set_trace_callback(None)
    plans = {one: plan_of(database._connection, one) for one in asked if is_query(one)}
    assert plans
    assert not [one for one in plans if "RETURNING" in one], (
        "needs SQLite 3.35; Debian 11 and Red Hat 9 have 3.34"
    )
    assert {statement: plan for statement, plan in plans.items() if any(map(is_scan, plan))} == {}


def is_query(statement: str) -> bool:
    """Whether this is our own query: the full-text index queries its own tables, too."""
    return (
        statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")) and "transcripts_text" not in statement
    )


def plan_of(connection: sqlite3.Connection, statement: str) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]


def is_scan(step: str) -> bool:
    """Whether all rows of a table are read. Rows of an argument do not count."""
    return step.startswith("SCAN ") and "VIRTUAL TABLE" not in step and step != "SCAN CONSTANT ROW"


async def test_scans_are_detected(database: Database) -> None:
    with pytest.raises(AssertionError), no_scan(database):
        await database.run(lambda connection: connection.execute("SELECT * FROM jobs WHERE ended = 5"))
    with pytest.raises(AssertionError), no_scan(database):
        pass


async def test_queries_for_watches_use_indexes(database: Database) -> None:
    store = WatchStore(database)
    preset = WatchPreset(id="0a", path="/inbox", created=MOMENT, changed=MOMENT)
    with no_scan(database):
        await store.insert(preset)
        await store.update(preset)
        files, outputs = store.files, store.outputs
        number = await files.put("0a", SEEN, "5" * 64)
        other = await files.put("0a", Seen("b.wav", SEEN.identity), None)
        await files.look_up("0a", [SEEN, Seen("c.wav", SEEN.identity)])
        await files.get(number)
        await files.at("0a", "a.wav")
        await files.with_status("0a", ("working", "written"))
        await files.present("0a", "", 250)
        await files.below("0a", "deep")
        await files.counts(["0a"])
        await files.update(number, LogLine("done", "a.wav", "It is done."), status="done")
        await files.try_again([number])
        await files.mark_gone([number])
        await files.rename(number, "d.wav", SEEN.identity, "0a")
        wanted = Wanted(["/inbox/a.en.txt"], "text", "en", "5" * 64)
        claimed, _ = await outputs.claim(number, [wanted])
        await outputs.claim(other, [wanted._replace(paths=["/inbox/a.en.txt", "/inbox/b.en.txt"])])
        await outputs.replace(number, claimed)
        await outputs.of(number)
        await outputs.absent_from("/inbox", [SEEN])
        await outputs.places_of("5" * 64)
        await outputs.below("/inbox")
        await outputs.free_place(other, ["/inbox/a.en.txt", "/inbox/c.en.txt"])
        await outputs.forget("/inbox/a.en.txt")
        await store.log.add("0a", LogLine("absent", None, "It is not there."))
        await store.log.read("0a", 50)
        await files.mark_removed(other, LogLine("deleted", "b.wav", "It was deleted."))
        await store.delete("0a")


async def test_queries_for_jobs_use_indexes(database: Database) -> None:
    journal = JobJournal(saver := Saver(database))
    job = Job(id="aa", path="/a.wav", input=JobInput(), options=JobOptions(), runtime="base")
    result = WindowResult(language="en", language_probability=1.0, segments=())
    window = FinishedWindow(
        index=0, start=0.0, end=1.0, channel=None, language="en", elapsed_s=0.1, result=result
    )
    with no_scan(database):
        tickets = [
            journal.put(record_of(job)),
            journal.add_windows("aa", [window]),
            journal.add_found("aa", Found(part=0, channel=0, position=0, spans=b"", memory=b"")),
        ]
        await saver.flush()
        for ticket in tickets:
            await ticket.saved()
        await journal.windows("aa")
        await journal.found("aa")
        journal.drop_progress("aa")
        await saver.flush()
        journal.forget(["aa"])
        await saver.flush()


async def test_queries_for_transcripts_use_indexes(database: Database) -> None:
    store = TranscriptStore(database)
    transcript = Transcript(
        task="transcribe", language="en", duration=1.0, text="", segments=(), runtime="base", elapsed=1.0,
        has_words=False,
    )  # fmt: skip
    kept = StoredTranscript(transcript=transcript, key="5", size_bytes=5, path="/a.wav", content_hash=None)
    with no_scan(database):
        for _ in range(2):
            await database.run(lambda connection: insert_transcript(connection, kept))
        await store.has_size(5)
        await store.find("5", "/b.wav")
        await store.of_job("aa")
        await store.forget_of_jobs(["aa"])
        await store.forget_before(MOMENT)
