"""Migrations from every stored version: complete or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from keep_version import stored_database

from whisperd.jobs.journal import JobJournal
from whisperd.jobs.search import parse_query
from whisperd.jobs.transcripts import TranscriptStore
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.preset import RuntimePreset
from whisperd.runtimes.presets import PresetStore
from whisperd.runtimes.profiles import Profile, ProfileStore
from whisperd.store import Saver, open_database
from whisperd.store.migrate import Migration, bundled_migrations, columns, version_of
from whisperd.watch import WatchStore, check_watches

pytestmark = pytest.mark.anyio

LATEST = len(bundled_migrations())
BASE = RuntimePreset(
    id="0a1b2c3d",
    name="base",
    model="base",
    created="2026-01-02T03:04:05.678Z",
    changed="2026-01-02T03:04:05.678Z",
)
TWO_GPUS = RuntimePreset(
    id="4e5f6a7b",
    name="two GPUs",
    model="/models/large-v3",
    backend="ctranslate2",
    device="cuda",
    device_index=(0, 1),
    compute_type="int8_float16",
    cpu_threads=2,
    workers=2,
    batched=False,
    batch_size=16,
    keep_alive=-1.0,
    enabled=False,
    protected=True,
    created="2026-02-03T04:05:06.789Z",
    changed="2026-03-04T05:06:07.890Z",
    version=7,
)
EDITOR = Profile(
    name="editor",
    runtime="4e5f6a7b",
    options={"language": "de", "beam_size": 1},
    created="2026-04-05T06:07:08.901Z",
    changed="2026-05-06T07:08:09.012Z",
    version=3,
)
PLAIN = Profile(name="plain", created="2026-04-05T06:07:08.901Z", changed="2026-04-05T06:07:08.901Z")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "whisperd.sqlite3"


def objects(path: Path) -> set[tuple[str, str, str]]:
    """Return every table, index and trigger with its SQL."""
    with closing(sqlite3.connect(path)) as connection:
        return set(connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master"))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return version_of(connection)


def test_migrations_are_numbered_from_one() -> None:
    assert [migration.number for migration in bundled_migrations()] == list(range(1, LATEST + 1))


@pytest.mark.parametrize("number", range(1, LATEST + 1))
async def test_stored_databases_match_their_migrations(number: int, path: Path, tmp_path: Path) -> None:
    assert stored_database(number).exists(), "run tests/store/keep_version.py and commit the new file"
    old = tmp_path / "old.sqlite3"
    shutil.copy(stored_database(number), old)  # reading it creates files next to it
    async with open_database(path, bundled_migrations()[:number]):
        pass
    assert version(old) == number
    assert objects(old) == objects(path), "a released migration must not change"


@pytest.mark.parametrize("number", range(1, LATEST + 1))
async def test_migrating_any_version_keeps_its_data(number: int, path: Path) -> None:
    shutil.copy(stored_database(number), path)
    async with open_database(path) as database:
        assert database.set_aside is None
        presets, default = await PresetStore(database).load()
        profiles = await ProfileStore(database).load()
        journal = JobJournal(Saver(database))
        jobs = await journal.load()
        windows = await journal.windows("bb00bb00bb")
        transcript = await TranscriptStore(database).of_job("aa00aa00aa")
        found = await TranscriptStore(database).search(parse_query('"begin then" end'), 50)
    if number >= 4:
        assert [(one.id, one.status) for one in jobs] == [
            ("aa00aa00aa", "completed"),
            ("bb00bb00bb", "queued"),
        ]
        assert [one.result.segments[0].text for one in windows.values()] == [" We begin."]
        assert transcript is not None and transcript.text == "We begin. Then we end."
        assert [hit.start for one in found for hit in one.hits] == [0.5, 4.5]
    assert presets == (BASE, TWO_GPUS)
    assert default == BASE.id
    assert profiles == ([EDITOR, PLAIN] if number >= 2 else [])
    assert version(path) == LATEST


ON_ANOTHER_SOCKET = """
    INSERT INTO jobs SELECT 'dd00dd00dd', '/tmp/whisperd-1000/daemon.sock', created, ended, transcript,
        replace(record, 'bb00bb00bb', 'dd00dd00dd') FROM jobs WHERE id = 'bb00bb00bb';
    INSERT INTO job_windows SELECT 'dd00dd00dd', place, finished FROM job_windows;
    INSERT INTO watches SELECT 'ee00ee00', '/tmp/whisperd-1000/daemon.sock', CAST('/home/me/Inbox' AS BLOB),
        replace(preset, 'cc00cc00', 'ee00ee00') FROM watches;
    INSERT INTO watches SELECT 'ff00ff00', '/tmp/whisperd-1000/daemon.sock', path,
        replace(preset, 'cc00cc00', 'ff00ff00') FROM watches WHERE id = 'cc00cc00';
    INSERT INTO watch_files SELECT 3, 'ff00ff00', path, '801:3f', size, modified, hash, status, job, attempts,
        retry_at, error, gone FROM watch_files WHERE id = 1;
    INSERT INTO watch_outputs VALUES
        (CAST('/home/me/Recordings/talk.en.srt' AS BLOB), 3, 'srt', 'en', 'ab', NULL);
    INSERT INTO watch_log VALUES
        (2, 'ff00ff00', '2026-09-09T10:11:13.123Z', 'done', CAST('talk.mp3' AS BLOB), 'It is done again.');
"""


async def test_data_of_several_sockets_is_merged_into_one_daemon(path: Path) -> None:
    shutil.copy(stored_database(11), path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(ON_ANOTHER_SOCKET)
    async with open_database(path, checks=[check_watches]) as database:
        journal, watches = JobJournal(Saver(database)), WatchStore(database)
        assert [one.id for one in await journal.load()] == ["aa00aa00aa", "bb00bb00bb", "dd00dd00dd"]
        assert len(await journal.windows("bb00bb00bb")) == len(await journal.windows("dd00dd00dd")) == 1
        assert [(one.id, one.path) for one in await watches.load()] == [
            ("ee00ee00", "/home/me/Inbox"),
            ("ff00ff00", "/home/me/Recordings"),
        ]
        broken, talk = await watches.files.with_status("ff00ff00", ["done", "failed"])
        assert [(one.path, one.identity.inode) for one in (broken, talk)] == [
            ("broken.mp3", "801:30"),
            ("talk.mp3", "801:3f"),
        ], "for files of both watches, the last one added wins"
        assert sorted(one.path for one in await watches.outputs.of(talk.id)) == [
            "/home/me/Recordings/talk.en.srt",
            "/home/me/Recordings/talk.en.txt",
        ]
        log = [line["message"] for line in await watches.log.read("ff00ff00", 9)]
        assert log == ["It is done.", "It is done again."]


@pytest.mark.parametrize("number", range(1, LATEST + 1))
async def test_a_migrated_database_has_the_schema_of_a_new_one(
    number: int, path: Path, tmp_path: Path
) -> None:
    shutil.copy(stored_database(number), path)
    new = tmp_path / "new.sqlite3"
    async with open_database(path), open_database(new):
        pass
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(new)) as fresh:
        assert columns(old) == columns(fresh)
    assert {entry[:2] for entry in objects(path)} == {entry[:2] for entry in objects(new)}


# Newer databases


@pytest.mark.parametrize("number", [LATEST + 1, 1_000_000])
@pytest.mark.parametrize("log", ["empty", "full"])
async def test_a_newer_database_is_refused_and_unchanged(
    number: int, log: str, path: Path, tmp_path: Path
) -> None:
    working = tmp_path / "working"
    working.mkdir()
    with closing(sqlite3.connect(working / path.name, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE of_tomorrow (x)")
        connection.execute("INSERT INTO of_tomorrow VALUES (zeroblob(10000))")
        connection.execute(f"PRAGMA user_version = {number}")
        if log == "empty":
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # As a killed program leaves it: with the log of pending writes next to it.
        names = [name for name in (path.name, f"{path.name}-wal") if (working / name).stat().st_size]
        for name in names:
            shutil.copy(working / name, tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    with pytest.raises(WhisperdError) as raised:
        async with open_database(path):
            pass
    assert raised.value.code == "store.too_new"
    assert "Upgrade whisperd" in raised.value.fix
    assert raised.value.data == {"path": str(path), "version": number, "known": LATEST}
    assert {name: (tmp_path / name).read_bytes() for name in names} == before
    assert len(names) == (1 if log == "empty" else 2)


# Failures during a migration


async def test_a_failed_migration_changes_nothing(path: Path) -> None:
    shutil.copy(stored_database(LATEST), path)
    before = objects(path)
    failing = Migration(
        LATEST + 1, "CREATE TABLE halfway (x);\nDELETE FROM profiles;\nSELECT no_such_column;\n"
    )
    with pytest.raises(sqlite3.OperationalError, match="no_such_column"):
        async with open_database(path, [*bundled_migrations(), failing]):
            pass
    assert objects(path) == before
    assert version(path) == LATEST
    async with open_database(path) as database:
        assert await ProfileStore(database).load() == [EDITOR, PLAIN]


async def test_a_migration_that_breaks_references_changes_nothing(path: Path) -> None:
    shutil.copy(stored_database(LATEST), path)
    breaking = Migration(LATEST + 1, "DELETE FROM runtimes;\n")
    with pytest.raises(sqlite3.IntegrityError, match="references"):
        async with open_database(path, [*bundled_migrations(), breaking]):
            pass
    async with open_database(path) as database:
        assert (await PresetStore(database).load())[0] == (BASE, TWO_GPUS)


async def test_a_migration_may_recreate_a_table_that_others_reference(path: Path) -> None:
    shutil.copy(stored_database(LATEST), path)
    anew = Migration(
        LATEST + 1,
        "CREATE TABLE anew (id TEXT NOT NULL PRIMARY KEY, name TEXT);\n"
        "INSERT INTO anew SELECT id, name FROM runtimes;\n"
        "DROP TABLE runtimes;\n"
        "ALTER TABLE anew RENAME TO runtimes;\n",
    )
    async with open_database(path, [*bundled_migrations(), anew]) as database:
        default = "SELECT name FROM runtimes JOIN default_runtime USING (id)"
        assert await database.run(lambda connection: connection.execute(default).fetchall()) == [("base",)]


DYING = """
import os, signal, sqlite3, sys
from whisperd.store.migrate import Migration, bundled_migrations, migrate

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # uncommitted pages reach the disk as well
connection.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
sql = (
    "CREATE TABLE halfway (x);\\n"
    "INSERT INTO halfway VALUES (zeroblob(1000000));\\nDELETE FROM profiles;\\nSELECT die();\\n"
)
migrate(connection, [*bundled_migrations(), Migration(len(bundled_migrations()) + 1, sql)])
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no signals")
async def test_a_crash_during_a_migration_leaves_the_old_version(path: Path) -> None:
    shutil.copy(stored_database(LATEST), path)
    before = objects(path)
    ended = subprocess.run([sys.executable, "-c", DYING, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.with_name(f"{path.name}-wal").stat().st_size > 1_000_000, "it must die in the middle"
    async with open_database(path) as database:
        assert database.set_aside is None
        assert (await PresetStore(database).load())[0] == (BASE, TWO_GPUS)
        assert await ProfileStore(database).load() == [EDITOR, PLAIN]
    assert objects(path) == before
    assert version(path) == LATEST
