"""A damaged database, wherever the damage is: quarantined or read as far as possible, never a crash.

SQLite detects some damage itself. Invalid contents in a file that is valid for SQLite are ours to detect.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keep_version import stored_database

from fuzzing import CHANGES, Change, examples, spoil
from whisperd.calibration import CalibrationTable
from whisperd.daemon.resuming import is_resumed, last_uses
from whisperd.jobs.journal import JobJournal, job_of
from whisperd.jobs.search import parse_query
from whisperd.jobs.transcripts import TranscriptStore
from whisperd.jobs.work_log import WorkLog
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.history import HistoryStore
from whisperd.runtimes.presets import PresetStore, check_presets
from whisperd.runtimes.profiles import ProfileStore, check_profiles
from whisperd.store import Database, Saver, open_database
from whisperd.store.migrate import bundled_migrations, columns
from whisperd.watch import WatchStore, check_watches

pytestmark = pytest.mark.anyio

LATEST = len(bundled_migrations())
CHECKS = (check_presets, check_profiles, check_watches)
WATCH, FILE = "cc00cc00", 1


@asynccontextmanager
async def opened(contents: bytes) -> AsyncIterator[Database]:
    """Open a database with these contents as the daemon does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whisperd.sqlite3")
        path.write_bytes(contents)
        async with open_database(path, checks=CHECKS) as database:
            yield database


async def start(database: Database) -> None:
    """Read everything that a daemon reads when it starts."""
    await PresetStore(database).load()
    await ProfileStore(database).load()
    await CalibrationTable(database).open()
    await HistoryStore(Saver(database)).resume()
    journal = JobJournal(Saver(database))
    records = await journal.load()
    last_uses(records)
    for record in records:
        job_of(record)
        is_resumed(record)
        await journal.windows(record.id)
        await journal.found(record.id)
    await WorkLog(Saver(database)).open()
    await WatchStore(database).load()


async def work(database: Database) -> None:
    """Read what the daemon looks up later. A damaged transcript may be an error of that request."""
    transcripts = TranscriptStore(database)
    for looking_up in (
        lambda: transcripts.find("0123456789abcdef" * 4, None),
        lambda: transcripts.of_job("aa00aa00aa"),
        lambda: transcripts.search(parse_query("we"), 10),
    ):
        try:
            await looking_up()
        except WhisperdError as error:
            assert error.code == "store.damaged", error
    watches = WatchStore(database)
    await watches.files.counts([WATCH])
    await watches.files.with_status(WATCH, ["done", "failed"])
    await watches.files.present(WATCH, "", 10)
    await watches.files.get(FILE)
    await watches.outputs.of(FILE)
    await watches.log.read(WATCH, 10)


def fields() -> list[tuple[str, str]]:
    with closing(sqlite3.connect(f"{stored_database(LATEST).as_uri()}?immutable=1", uri=True)) as connection:
        return sorted(field for field in columns(connection) if not field[0].startswith("transcripts_text"))


VALUES = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([-1, 0, 1, 2**31, 2**63 - 1])
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=20)
    | st.sampled_from(["null", "[]", "{}", "[null]", '{"id":1}', "9" * 5000, "[" * 5000, "\ufffd"])
)


def with_contents(changes: list[tuple[tuple[str, str], Any]]) -> bytes:
    """Return the database with new values in these columns, or damaged versions of the old values."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whisperd.sqlite3")
        shutil.copy(stored_database(LATEST), path)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for (table, column), value in changes:
                for (old,) in connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():
                    put(connection, table, column, old, value)
        return path.read_bytes()


def put(connection: sqlite3.Connection, table: str, column: str, old: Any, value: Any) -> None:
    if isinstance(value, list) and isinstance(old, (str, bytes)):
        spoilt = spoil(old.encode() if isinstance(old, str) else old, value)
        value = spoilt.decode(errors="replace") if isinstance(old, str) else spoilt
    try:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} IS ?", (value, old))
    except (sqlite3.Error, UnicodeEncodeError):  # violates a constraint, or cannot be stored at all
        assume(False)


@settings(max_examples=examples(80))
@given(st.lists(st.tuples(st.sampled_from(fields()), VALUES | CHANGES), min_size=1, max_size=3))
async def test_the_daemon_starts_with_any_contents(changes: list[tuple[tuple[str, str], Any]]) -> None:
    async with opened(with_contents(changes)) as database:
        await start(database)
        await work(database)


@settings(max_examples=examples(60))
@given(st.integers(1, LATEST), CHANGES)
async def test_the_daemon_starts_after_any_damage_on_disk(version: int, changes: list[Change]) -> None:
    """It is quarantined, still valid, or reported as newer. SQLite may detect more damage later."""
    try:
        async with opened(spoil(stored_database(version).read_bytes(), changes)) as database:
            await start(database)
            await work(database)
    except WhisperdError as error:
        assert error.code in ("store.too_new", "store.damaged"), error


async def test_a_damaged_history_entry_does_not_prevent_the_start() -> None:
    contents = with_contents([(("runtime_history", "moment"), "no moment")])
    async with opened(contents) as database:
        assert database.set_aside is None
        assert await HistoryStore(Saver(database)).resume() == {}


async def test_a_value_of_another_type_is_damage() -> None:
    """SQLite accepts it."""
    contents = with_contents([(("jobs", "record"), b"{}")])
    async with opened(contents) as database:
        assert database.set_aside is not None
        await start(database)


async def test_an_unreadable_error_of_a_file_does_not_stop_its_watch() -> None:
    contents = with_contents([(("watch_files", "error"), '{"code":')])
    async with opened(contents) as database:
        assert database.set_aside is None
        (failed,) = await WatchStore(database).files.with_status(WATCH, ["failed"])
        assert failed.error is None


@pytest.mark.parametrize("damage", ["of an index", "of the word index"])
async def test_a_damaged_index_is_rebuilt(tmp_path: Path, damage: str) -> None:
    """SQLite does not notice it until a text is deleted; starting the daemon again changes nothing."""
    path = tmp_path / "whisperd.sqlite3"
    shutil.copy(stored_database(LATEST), path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        if damage == "of the word index":
            connection.execute(
                "UPDATE transcripts_text_data SET block = zeroblob(length(block)) WHERE id > 10"
            )
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'transcripts_by_created'"
        (number,) = connection.execute(query).fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    contents = bytearray(path.read_bytes())
    if damage == "of an index":
        contents[contents.index(b"2026-07-08", (number - 1) * page_bytes)] ^= 1
    async with opened(bytes(contents)) as database:
        assert database.set_aside is None
        store = TranscriptStore(database)
        assert await store.forget_before("9999") == 1
        assert not await store.search(parse_query("begin"), 10)
