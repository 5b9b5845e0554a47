"""The journal: a resumed job has the same result, wherever its daemon ended."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toy_runtime import until
from whisperd.audio import Found
from whisperd.jobs import identity
from whisperd.jobs.identity import FileStamp, check_path, content_hash
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.journal import (
    FinishedWindow,
    JobJournal,
    decode_record,
    decode_window,
    job_of,
    record_of,
)
from whisperd.jobs.options import JobOptions
from whisperd.rpc.errors import WhisperdError
from whisperd.store import Database, open_database, open_saver
from whisperd.tasks import open_task_group
from whisperd.threads import THREADS_PER_FOLDER
from whisperd.worker.protocol import EngineSegment, WindowResult

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
segments = st.builds(
    EngineSegment,
    start=numbers,
    end=numbers,
    text=texts,
    tokens=st.lists(st.integers(0, 60_000), max_size=3).map(tuple),
    temperature=numbers,
    avg_logprob=numbers,
    compression_ratio=numbers,
    no_speech_prob=numbers,
)
results = st.builds(
    WindowResult,
    language=texts,
    language_probability=numbers,
    segments=st.lists(segments, max_size=3).map(tuple),
)
stamps = st.builds(FileStamp, size_bytes=st.integers(0, 2**60), modified_ns=st.integers(0, 2**62))
windows = st.builds(
    FinishedWindow,
    index=st.integers(0, 10**6),
    start=numbers,
    end=numbers,
    channel=st.none() | st.integers(0, 7),
    language=st.none() | texts,
    elapsed_s=numbers,
    result=results,
)
jobs = st.fixed_dictionaries(
    {
        "id": st.text("0123456789abcdef", min_size=1),
        "path": st.binary(max_size=20).map(lambda data: data.decode(errors="surrogateescape")),
        "input": st.builds(JobInput, path=st.none() | texts, upload=st.none() | texts),
        "options": st.builds(
            JobOptions,
            language=texts,
            prompt=st.none() | texts,
            temperature=st.none() | st.lists(st.floats(0, 1), max_size=3).map(tuple),
            clip=st.none() | texts,
            cache=st.booleans(),
        ),
        "runtime": texts,
        "runtime_id": st.none() | texts,
        "model": texts,
        "is_detached": st.booleans(),
        "stamp": st.none() | stamps,
        "content_hash": st.none() | texts,
        "recipe": st.none() | texts,
    }
)


@given(windows)
def test_a_window_survives_a_round_trip(window: FinishedWindow) -> None:
    assert decode_window(msgspec.msgpack.encode(window)) == window


@given(jobs, st.sampled_from(["completed", "failed", "cancelled"]), st.booleans())
def test_a_job_survives_a_round_trip(fields: dict[str, Any], status: Any, is_over: bool) -> None:
    anyio.run(check_round_trip, fields, status, is_over)


async def check_round_trip(fields: dict[str, Any], status: Any, is_over: bool) -> None:
    job = Job(**fields)
    if is_over:
        job.status, job.ended = status, "2026-01-02T03:04:05.678Z"
        job.error = WhisperdError("some.problem", "It broke.", "Mend it.", {"path": "/a"})
        job.duration_s, job.elapsed_s = 3.0, 1.5
    record = record_of(job)
    again = job_of(decode_record(msgspec.json.encode(record).decode()))
    assert record_of(again) == record
    assert (again.path, again.over.is_set()) == (job.path, is_over)
    if job.error is not None:
        assert again.error is not None
        assert (again.status, again.error.to_wire()) == (status, job.error.to_wire())


@pytest.mark.anyio
async def test_an_unfinished_job_is_queued_again() -> None:
    job = a_job()
    job.status, job.started, job.done_s, job.is_at_work = "running", "2026-01-02T03:04:05.678Z", 7.0, True
    again = job_of(record_of(job))
    assert (again.status, again.started, again.done_s, again.is_at_work) == ("queued", None, 0.0, False)
    assert again.interruptions == 1


@pytest.mark.parametrize("damaged", ["", "{}", '{"id": 1}', "[]"])
def test_a_damaged_record_is_refused(damaged: str) -> None:
    with pytest.raises(ValueError):
        decode_record(damaged)


# Hashes


@pytest.mark.anyio
async def test_the_content_hash_is_the_sha_256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    hashed = await content_hash(str(path))
    assert hashed is not None
    assert hashed[0] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashed[1].size_bytes == 3
    with pytest.raises(WhisperdError) as raised:
        await content_hash(str(tmp_path / "b"))
    assert raised.value.code == "audio.not_found"


@pytest.mark.anyio
async def test_checking_a_path_does_not_wait_for_files_being_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing large files on a slow disk takes a minute: the folder would be reported as unresponsive."""

    def read(path: str, _given_up: threading.Event) -> None:
        being_read.append(path)
        is_read.wait()

    being_read, is_read = list[str](), threading.Event()
    monkeypatch.setattr(identity, "_hash", read)
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    async with open_task_group() as tasks:
        for number in range(THREADS_PER_FOLDER):
            tasks.start_soon(content_hash, str(tmp_path / f"{number}"))
        await until(lambda: len(being_read) == THREADS_PER_FOLDER)
        try:
            assert (await check_path(str(path))).size_bytes == 3
        finally:
            is_read.set()


# Saving


def a_job(name: str = "a") -> Job:
    return Job(
        id=name, path="/a", input=JobInput(path="/a"), options=JobOptions(), runtime="toy", model="toy"
    )


def a_window(index: int) -> FinishedWindow:
    result = WindowResult(language="en", language_probability=1.0, segments=())
    return FinishedWindow(
        index=index, start=0.0, end=1.0, channel=None, language="en", elapsed_s=0.1, result=result
    )


class CountedDatabase:
    """Counts the transactions of a real database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.count = 0

    async def run(self, work: Any) -> Any:
        self.count += 1
        return await self._database.run(work)


@pytest.mark.anyio
async def test_pending_writes_are_saved_in_one_transaction(tmp_path: Path) -> None:
    async with open_database(tmp_path / "a.sqlite3") as database:
        counted = CountedDatabase(database)
        async with open_saver(cast(Database, counted)) as saver:
            journal = JobJournal(saver)
            tickets = [journal.put(a_job(str(number))) for number in range(1000)]
            tickets += [journal.add_windows("7", [a_window(number)]) for number in range(1000)]
            for ticket in tickets:
                await ticket.saved()
            assert counted.count <= 3
            assert len(await journal.load()) == 1000
            assert len(await journal.windows("7")) == 1000
            journal.forget(["7"])
            await saver.flush()
            assert await journal.windows("7") == {}, "the windows of a forgotten job are deleted"
            journal.add_windows("7", [a_window(0)])
            await saver.flush()
            assert await journal.windows("7") == {}, "a late window does not bring a forgotten job back"


@pytest.mark.anyio
async def test_a_job_and_its_companion_write_are_one_transaction(tmp_path: Path) -> None:
    def note(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE ledger (job TEXT)")

    def fail(_connection: sqlite3.Connection) -> None:
        raise WhisperdError("disk.full", "There is no room.", "Make some.")

    async with open_database(tmp_path / "a.sqlite3") as database, open_saver(database) as saver:
        journal = JobJournal(saver)
        await journal.put(a_job("both"), also=note).saved()
        with pytest.raises(WhisperdError):
            await journal.put(a_job("neither"), also=fail).saved()
        assert [one.id for one in await journal.load()] == ["both"]
        assert (
            await database.run(lambda connection: connection.execute("SELECT * FROM ledger").fetchall()) == []
        )


@pytest.mark.anyio
async def test_saving_found_speech_does_not_slow_down_over_time(tmp_path: Path) -> None:
    found = Found(part=0, channel=0, position=1, spans=b"", memory=b"")
    async with open_database(tmp_path / "a.sqlite3") as database, open_saver(database) as saver:
        journal = JobJournal(saver)
        journal.put(a_job("a"))
        steps: list[int] = []

        def count(connection: sqlite3.Connection) -> None:
            steps.append(0)
            connection.set_progress_handler(lambda: steps.__setitem__(-1, steps[-1] + 1), 1)

        for _ in range(500):
            saver.hand_over(count)
            journal.add_found("a", found)
        await saver.flush()
        await database.run(lambda connection: connection.set_progress_handler(None, 1))
        assert steps[-2] <= 2 * steps[1]


@pytest.mark.anyio
async def test_damaged_records_are_skipped(tmp_path: Path) -> None:
    async with open_database(tmp_path / "a.sqlite3") as database, open_saver(database) as saver:
        journal = JobJournal(saver)
        for name in ("a", "b"):
            journal.put(a_job(name))
        journal.add_windows("b", [a_window(0), a_window(1)])
        journal.add_found("b", Found(part=0, channel=0, position=1, spans=b"", memory=b""))
        await saver.flush()

        def damage(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE jobs SET record = '{' WHERE id = 'a'")
            connection.execute("UPDATE job_windows SET finished = x'00' WHERE place = 0")
            connection.execute("UPDATE job_speech SET found = x'00'")

        await database.run(damage)
        assert [one.id for one in await journal.load()] == ["b"]
        assert list(await journal.windows("b")) == [1]
        assert await journal.found("b") == (), "speech is looked for again from the beginning"


@pytest.mark.anyio
async def test_finished_windows_are_decoded_off_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding those of a day of audio takes a quarter of a second."""
    threads: list[int] = []

    def decode(data: bytes) -> Any:
        threads.append(threading.get_ident())
        return msgspec.msgpack.decode(data, type=FinishedWindow if len(threads) == 1 else Found)

    monkeypatch.setattr("whisperd.jobs.journal.decode_window", decode)
    monkeypatch.setattr("whisperd.jobs.journal._decode_found", decode)
    found = Found(part=0, channel=0, position=1, spans=b"", memory=b"")
    async with open_database(tmp_path / "a.sqlite3") as database, open_saver(database) as saver:
        journal = JobJournal(saver)
        journal.put(a_job("a"))
        journal.add_windows("a", [a_window(0)])
        await journal.add_found("a", found).saved()
        assert (await journal.windows("a"), await journal.found("a")) == ({0: a_window(0)}, (found,))
    assert len(threads) == 2 and threading.get_ident() not in threads
