"""The database: private, serial transactions, damage quarantined."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from keep_version import stored_database

from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.presets import PresetStore, check_presets
from whisperd.runtimes.profiles import check_profiles
from whisperd.store import Database, database, open_database, problem_with
from whisperd.store.errors import from_sqlite_error
from whisperd.store.migrate import Migration, bundled_migrations
from whisperd.watch import check_watches
from whisperd_testing import LIMIT_S, unprivileged

pytestmark = pytest.mark.anyio

LATEST = len(bundled_migrations())
CHECKS = (check_presets, check_profiles, check_watches)
NUMBERS = [Migration(1, "CREATE TABLE numbers (x INTEGER NOT NULL UNIQUE);\n")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state's #1 %41" / "whisperd.sqlite3"


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [x for (x,) in connection.execute("SELECT x FROM numbers ORDER BY rowid")]


def adding(*values: int) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO numbers VALUES (?)", [(value,) for value in values])

    return work


# Opening


@pytest.mark.parametrize("begin", ["missing", "empty"])
async def test_a_new_database_is_created(begin: str, path: Path) -> None:
    if begin == "empty":
        path.parent.mkdir()
        path.touch()
    async with open_database(path) as database:
        assert database.set_aside is None
        assert await PresetStore(database).load() == ((), None)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


async def test_the_settings_of_sqlite_favour_durability(path: Path) -> None:
    def settings(connection: sqlite3.Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    async with open_database(path) as database:
        assert await database.run(settings) == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 10_000,
        }


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
@pytest.mark.parametrize("begin", ["new", "open to all"])
async def test_only_the_owner_may_read_the_database(begin: str, path: Path) -> None:
    if begin == "open to all":
        path.parent.mkdir(mode=0o700)
        shutil.copy(stored_database(1), path)
        path.chmod(0o666)
    mask = os.umask(0)
    try:
        async with open_database(path) as database:
            await database.run(lambda connection: connection.execute("DELETE FROM default_runtime WHERE 0"))
            files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(mask)
    assert files == {path.name: 0o600, f"{path.name}-wal": 0o600, f"{path.name}-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_committed_rows_survive_reopening(path: Path) -> None:
    async with open_database(path, NUMBERS) as database:
        await database.run(adding(1, 2))
    async with open_database(path, NUMBERS) as database:
        assert await database.run(numbers) == [1, 2]


# Transactions


async def test_the_log_shrinks_after_a_large_transaction(path: Path) -> None:
    wal = path.with_name(f"{path.name}-wal")
    texts = Migration(2, "CREATE TABLE texts (x TEXT);\n")
    async with open_database(path, [*NUMBERS, texts]) as database:
        await database.run(lambda connection: connection.execute("INSERT INTO texts VALUES (zeroblob(2e7))"))
        assert wal.stat().st_size > 2e7
        await database.run(adding(1))
        assert wal.stat().st_size < 1e7
        await database.run(adding(2))
        assert await database.run(numbers) == [1, 2]


async def test_erasing_fails_while_another_program_reads_the_database(path: Path) -> None:
    """What it reads is still in the log."""
    async with open_database(path, NUMBERS) as database:
        await database.run(adding(1, 2))
        await database.run(lambda connection: connection.execute("PRAGMA busy_timeout = 0"))
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT x FROM numbers").fetchall()
            with pytest.raises(WhisperdError) as caught:
                await database.erase()
            assert caught.value.code == "store.busy"
        await database.erase()
        assert await database.run(numbers) == [1, 2]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
async def test_erasing_puts_its_temporary_copy_next_to_the_database(path: Path) -> None:
    """The copy is as large as the database, and others may read the temporary folder."""
    copies: set[Path] = set()

    def look() -> None:
        opened = [Path(os.path.realpath(file)) for file in Path("/proc/self/fd").iterdir()]
        copies.update(file.parent for file in opened if "etilqs" in file.name)

    async with open_database(path, [Migration(1, "CREATE TABLE texts (x TEXT);\n")]) as database:
        await database.run(lambda connection: connection.execute("INSERT INTO texts VALUES (zeroblob(1e7))"))
        await database.run(lambda connection: connection.set_progress_handler(look, 1))
        await database.erase()
        (store,) = await database.run(lambda connection: connection.execute("PRAGMA temp_store").fetchone())
    assert copies == {path.parent.resolve()}
    assert store == 2  # sorting stays in memory


async def test_failed_work_is_rolled_back(path: Path) -> None:
    def work(connection: sqlite3.Connection) -> None:
        adding(2)(connection)
        raise LookupError("in the middle")

    def repeated(connection: sqlite3.Connection) -> None:
        attempts.append(3)
        adding(3, 1)(connection)

    attempts: list[int] = []
    async with open_database(path, NUMBERS) as database:
        await database.run(adding(1))
        with pytest.raises(LookupError, match="in the middle"):
            await database.run(work)
        with pytest.raises(sqlite3.IntegrityError):
            await database.run(repeated)
        assert attempts == [3], "only work that fails because of damage is tried again"
        assert await database.run(numbers) == [1]


async def test_transactions_run_one_after_another(path: Path) -> None:
    inside: list[int] = []

    def count_up(connection: sqlite3.Connection) -> None:
        inside.append(1)
        assert len(inside) == 1
        (most,) = connection.execute("SELECT coalesce(max(x), 0) FROM numbers").fetchone()
        adding(most + 1)(connection)
        inside.pop()

    async with open_database(path, NUMBERS) as database:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(database.run, count_up)
        assert await database.run(numbers) == list(range(1, 51))


async def test_two_connections_do_not_lose_updates(path: Path) -> None:
    def count_up(connection: sqlite3.Connection) -> None:
        (most,) = connection.execute("SELECT coalesce(max(x), 0) FROM numbers").fetchone()
        adding(most + 1)(connection)

    async with open_database(path, NUMBERS) as one, open_database(path, NUMBERS) as other:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(one.run, count_up)
                tasks.start_soon(other.run, count_up)
        assert await one.run(numbers) == list(range(1, 21))


class _Held:
    """Work that starts and then waits for `go_on`."""

    def __init__(self, value: int) -> None:
        self.has_begun = anyio.Event()
        self.go_on = threading.Event()
        self._value = value

    def __call__(self, connection: sqlite3.Connection) -> int:
        adding(self._value)(connection)
        anyio.from_thread.run_sync(self.has_begun.set)
        assert self.go_on.wait(LIMIT_S)
        return self._value


async def test_started_work_finishes_and_returns_even_if_its_caller_is_cancelled(path: Path) -> None:
    answers: list[int] = []
    held = _Held(1)

    async def caller(database: Database, scope: anyio.CancelScope) -> None:
        with scope:
            answers.append(await database.run(held))

    async with open_database(path, NUMBERS) as database, anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        tasks.start_soon(caller, database, scope)
        await held.has_begun.wait()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        held.go_on.set()
        assert await database.run(numbers) == [1]
    assert answers == [1]


async def test_waiting_work_is_dropped_if_its_caller_is_cancelled(path: Path) -> None:
    held = _Held(1)
    async with open_database(path, NUMBERS) as database, anyio.create_task_group() as tasks:
        tasks.start_soon(database.run, held)
        await held.has_begun.wait()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(database.run, adding(2))
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        held.go_on.set()
        assert await database.run(numbers) == [1]


async def test_closing_waits_for_started_work(path: Path) -> None:
    held = _Held(1)
    async with anyio.create_task_group() as tasks, open_database(path, NUMBERS) as database:
        tasks.start_soon(database.run, held)
        await held.has_begun.wait()
        held.go_on.set()
    async with open_database(path, NUMBERS) as database:
        assert await database.run(numbers) == [1]


# Damage


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def only_the_first_page(data: bytes) -> bytes:
    return data[:4096]


def shorter_than_a_header(data: bytes) -> bytes:
    return data[:50]


def garbage(data: bytes) -> bytes:
    return random.Random(7).randbytes(len(data))


def text(data: bytes) -> bytes:
    return b"This is no data base.\n" * 100


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


def a_page_overwritten(data: bytes) -> bytes:
    return data[:4096] + random.Random(7).randbytes(4096) + data[8192:]


def a_wrong_count_of_free_pages(data: bytes) -> bytes:
    """Which only the check finds: reading and writing would go on."""
    return data[:36] + (99).to_bytes(4) + data[40:]


DAMAGES = [
    truncated,
    only_the_first_page,
    shorter_than_a_header,
    garbage,
    text,
    zeros,
    a_page_overwritten,
    a_wrong_count_of_free_pages,
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_database_is_quarantined(
    damage: Callable[[bytes], bytes], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = damage(stored_database(LATEST).read_bytes())
    path.parent.mkdir()
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING, "whisperd.store"):
        async with open_database(path) as database:
            assert database.set_aside is not None
            assert await PresetStore(database).load() == ((), None)
    assert database.set_aside.parent == path.parent
    assert database.set_aside.name.startswith("whisperd.sqlite3.damaged-2")
    assert database.set_aside.read_bytes() == damaged
    assert str(database.set_aside) in caplog.text
    async with open_database(path) as database:
        assert database.set_aside is None, "the new database is valid"


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE profiles", "ALTER TABLE runtimes RENAME COLUMN model TO weights", "PRAGMA user_version = 0"],
)
async def test_a_database_with_the_wrong_schema_is_damaged(statement: str, path: Path) -> None:
    path.parent.mkdir()
    shutil.copy(stored_database(LATEST), path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    before = path.read_bytes()
    async with open_database(path) as database:
        assert database.set_aside is not None
    assert database.set_aside.read_bytes() == before


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE runtimes SET device = 'tpu'"],
        ["UPDATE runtimes SET device_index = 'none'"],
        ["UPDATE profiles SET options = '[]'"],
        ["UPDATE watches SET preset = json_set(preset, '$.quiet_hours', 'at night')"],
        ["DROP TRIGGER default_runtime_stays", "DELETE FROM default_runtime"],
        ["UPDATE default_runtime SET id = 'nobody'"],
    ],
)
async def test_a_database_with_invalid_contents_is_damaged(statements: list[str], path: Path) -> None:
    path.parent.mkdir()
    shutil.copy(stored_database(LATEST), path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            assert connection.execute(statement).rowcount, "the statement changed nothing"
    before = path.read_bytes()
    async with open_database(path, checks=CHECKS) as database:
        assert database.set_aside is not None
        assert await PresetStore(database).load() == ((), None)
    assert database.set_aside.read_bytes() == before
    async with open_database(path, checks=CHECKS) as database:
        assert database.set_aside is None, "the new database is valid"


async def test_the_log_of_a_damaged_database_is_quarantined_with_it(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no data base")
    path.with_name(f"{path.name}-wal").write_bytes(b"its log")
    path.with_name(f"{path.name}-shm").write_bytes(b"its index")
    async with open_database(path) as database:
        aside = database.set_aside
    assert aside is not None
    assert aside.read_bytes() == b"no data base"
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"its log"
    assert aside.with_name(f"{aside.name}-shm").exists()


async def test_an_empty_database_with_a_log_is_damaged(path: Path) -> None:
    path.parent.mkdir()
    path.with_name(f"{path.name}-wal").write_bytes(b"what was written last")
    async with open_database(path) as database:
        aside = database.set_aside
    assert aside is not None
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"what was written last"


async def test_quarantined_databases_are_not_overwritten(path: Path) -> None:
    path.parent.mkdir()
    contents = [f"not a data base, {number}".encode() for number in range(5)]
    for content in contents:  # all within a second or two, so that most get the same timestamp
        path.write_bytes(content)
        async with open_database(path):
            pass
    aside = [file for file in path.parent.iterdir() if "damaged" in file.name]
    assert sorted(file.read_bytes() for file in aside) == contents


async def test_the_program_starts_after_any_damage(path: Path) -> None:
    """Overwritten anywhere, it is still valid, quarantined, or reported as newer."""
    whole = stored_database(LATEST).read_bytes()
    path.parent.mkdir()
    chance = random.Random(11)
    set_aside = 0
    for _ in range(100):
        damaged = bytearray(whole)
        begin, length = chance.randrange(len(whole)), chance.choice([1, 10, 300, 5000])
        if begin % 5 == 0:
            begin %= 100  # the header, where damage is worst
        damaged[begin : begin + length] = chance.randbytes(length)
        path.write_bytes(damaged[: len(whole)])
        try:
            async with open_database(path, checks=CHECKS) as database:
                set_aside += database.set_aside is not None
                await PresetStore(database).load()
        except WhisperdError as error:
            assert error.code == "store.too_new", error
        finally:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert set_aside > 20


async def test_damage_in_an_open_database_has_a_fix(path: Path) -> None:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET rootpage = 4000 WHERE name = 'numbers'")
        connection.execute("PRAGMA writable_schema = RESET")
        numbers(connection)

    async with open_database(path, NUMBERS) as database:
        with pytest.raises(WhisperdError) as raised:
            await database.run(work)
    assert raised.value.code == "store.damaged"
    assert "whisperctl daemon restart" in raised.value.fix


@pytest.mark.parametrize("how", ["deleted", "folder deleted", "replaced"])
@pytest.mark.skipif(os.name != "posix", reason="Windows does not delete open files")
async def test_a_database_deleted_while_open_refuses_writes(how: str, path: Path) -> None:
    async with open_database(path, NUMBERS) as database:
        await database.run(adding(1))
        if how == "deleted":
            path.unlink()
        elif how == "replaced":
            shutil.copy(path, path.with_name("copy"))
            path.with_name("copy").replace(path)
        else:
            shutil.rmtree(path.parent)
        with pytest.raises(WhisperdError) as raised:
            await database.run(adding(2))
        assert raised.value.code == "store.gone"
        assert "whisperctl daemon restart" in raised.value.fix


async def test_a_database_that_cannot_be_checked_is_not_deleted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    async with open_database(path, NUMBERS) as database:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "stat", refuse)
            await database.run(adding(1))
        assert await database.run(numbers) == [1]


# Errors of the system


async def refusal(path: Path, migrations: list[Migration] | None = None) -> WhisperdError:
    with pytest.raises(WhisperdError) as raised:
        async with open_database(path, migrations):
            pass
    assert raised.value.fix
    return raised.value


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users can enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
@pytest.mark.parametrize("forbidden", ["folder", "read-only folder", "file"])
async def test_a_database_without_permissions_is_not_quarantined(forbidden: str, open_folder: Path) -> None:
    path = open_folder / "state" / "whisperd.sqlite3"
    path.parent.mkdir()
    shutil.copy(stored_database(LATEST), path)
    path.chmod(0o400 if forbidden == "file" else 0o666)
    path.parent.chmod({"folder": 0o000, "read-only folder": 0o555, "file": 0o777}[forbidden])
    try:
        with unprivileged():
            error = await refusal(path)
    finally:
        path.parent.chmod(0o700)
    assert error.code == "store.unreadable"
    assert str(path) in error.message
    assert "WHISPERD_STATE_DIR" in error.fix
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    path.chmod(0o600)
    assert path.read_bytes() == stored_database(LATEST).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
async def test_a_check_of_a_read_only_database_leaves_it_usable(open_folder: Path) -> None:
    open_folder.chmod(0o777)
    path = open_folder / "state" / "whisperd.sqlite3"
    with unprivileged():
        async with open_database(path):
            pass
        path.chmod(0o400)
        assert problem_with(path) is None
        path.chmod(0o600)
        async with open_database(path):
            pass


async def test_a_folder_in_place_of_the_database_is_not_quarantined(path: Path) -> None:
    path.mkdir(parents=True)
    assert (await refusal(path)).code == "store.unreadable"
    assert path.is_dir()


async def test_a_file_in_place_of_the_folder_is_an_error(path: Path) -> None:
    path.parent.write_text("not a folder")
    assert (await refusal(path)).code == "store.unreadable"


async def test_a_locked_database_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperd.store.database.BUSY_TIMEOUT_S", 0.01)
    path.parent.mkdir()
    shutil.copy(stored_database(LATEST), path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert (await refusal(path)).code == "store.unreadable"
    async with open_database(path) as database:
        assert database.set_aside is None
        assert len((await PresetStore(database).load())[0]) == 2


@pytest.mark.parametrize("is_lasting", [False, True])
async def test_a_failed_read_is_not_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch, is_lasting: bool
) -> None:
    """SQLite reports it as damage."""
    check, read = database._check, Path.open
    reports = iter(["database disk image is malformed"])

    def failing_check(*arguments: Any) -> None:
        if report := next(reports, None):
            raise database._Damaged(report)
        check(*arguments)

    def failing_read(file: Path, *arguments: Any) -> Any:
        if is_lasting:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(file, *arguments)

    async with open_database(path, NUMBERS) as opened:
        await opened.run(adding(1))
    monkeypatch.setattr(database, "_check", failing_check)
    monkeypatch.setattr(Path, "open", failing_read)
    if is_lasting:
        assert (await refusal(path, NUMBERS)).code == "store.unreadable"
    async with open_database(path, NUMBERS) as opened:
        assert opened.set_aside is None
        assert await opened.run(numbers) == [1]


async def test_a_full_disk_while_opening_is_an_error(path: Path) -> None:
    filling = Migration(
        2,
        "PRAGMA max_page_count = 10;\n"
        "CREATE TABLE large (x);\n"
        "INSERT INTO large VALUES (zeroblob(1000000));\n",
    )
    error = await refusal(path, [*NUMBERS, filling])
    assert error.code == "disk.full"
    assert str(path.parent) in error.message
    async with open_database(path, NUMBERS) as database:
        assert database.set_aside is None


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk.full"), (errno.EDQUOT, "disk.full"), (errno.EIO, "store.unreadable")],
)
@pytest.mark.parametrize("reported", [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_CANTOPEN])
def test_an_exceeded_quota_is_told_from_a_broken_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: int, number: int, code: str
) -> None:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    failure = sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorcode = reported
    error = from_sqlite_error(tmp_path / "whisperd.sqlite3", failure)
    assert error is not None and error.code == code
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_while_writing_rolls_back(path: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        adding(2)(connection)
        connection.execute("PRAGMA max_page_count = 10")
        connection.execute("CREATE TABLE large AS SELECT zeroblob(1000000) AS x")

    async with open_database(path, NUMBERS) as database:
        await database.run(adding(1))
        with pytest.raises(WhisperdError) as raised:
            await database.run(fill)
        assert raised.value.code == "disk.full"
        assert await database.run(numbers) == [1]
        await database.run(adding(3))
    async with open_database(path, NUMBERS) as database:
        assert await database.run(numbers) == [1, 3]
