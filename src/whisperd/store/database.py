"""The database: open, check and migrate it, and run transactions on it one at a time.

A damaged database is renamed and left for its owner to inspect, and a new one is created, so that the daemon
starts in any case. Damage found only later may lie in an index; these are rebuilt from the tables. A database
that a newer program wrote, or that the system does not let us use, is left untouched.
"""

from __future__ import annotations

import datetime
import itertools
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
from anyio import to_thread

from whisperd.paths import make_private_folder
from whisperd.rpc.errors import WhisperdError, is_lack_of_threads
from whisperd.store import errors
from whisperd.store.migrate import (
    Migration,
    bundled_migrations,
    columns,
    columns_made_by,
    migrate,
    version_of,
)

__all__ = ["Database", "open_database", "problem_with"]

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S: Final = 10.0
"""How long another process may lock the database before that is an error."""
MOST_LOG_BYTES: Final = 8 * 2**20
"""The most disk space that the write-ahead log keeps: twice its usual size. Otherwise, deleting many texts at
once would leave it as large as they were."""
SIDE_FILES: Final = ("-wal", "-shm")
"""Files that SQLite keeps next to a database. The first may hold the latest commits."""

_VALUE_TYPES: Final = ("blob", "integer", "real", "text")
"""Declared types of columns, which are also the storage classes of SQLite."""

T = TypeVar("T")
Check = Callable[[sqlite3.Connection], None]
"""Checks the records of one room. Raises `ValueError` with the reason if they are not valid."""


@asynccontextmanager
async def open_database(
    path: Path, migrations: Sequence[Migration] | None = None, checks: Sequence[Check] = ()
) -> AsyncIterator[Database]:
    """Open a database during the block; create it if there is none, and migrate it.

    A damaged one, or one that a check rejects, is set aside (`Database.set_aside`). Raises `WhisperdError`
    (`store.too_new`, `store.unreadable`, `disk.full`).
    """
    database = await to_thread.run_sync(
        _open, path, bundled_migrations() if migrations is None else migrations, checks
    )
    try:
        yield database
    finally:
        with anyio.CancelScope(shield=True):
            await database.close()


class Database:
    """An open database. Every operation is a transaction, and they run one after another."""

    def __init__(self, path: Path, connection: sqlite3.Connection, set_aside: Path | None) -> None:
        self.path = path
        self.set_aside = set_aside
        """The new path of the damaged database that was found when this one was opened, if there was one."""
        self._connection = connection
        self._identity = _identity(path)
        self._are_indexes_rebuilt = False
        # One thread at a time, outside the shared pool, whose threads may all be waiting for something slow.
        self._thread = anyio.CapacityLimiter(1)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a thread, as one transaction, which is rolled back on an exception.

        A caller cancelled while waiting for its turn has changed nothing; work that has begun is finished and
        its result returned, so that the caller always knows whether it was committed. `work` must not commit.
        Raises what `work` raises, and `WhisperdError` (`disk.full`, `store.unreadable`, `store.damaged`,
        `store.gone`).
        """
        return await self._run_in_thread(lambda: self._transact(work))

    async def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Run one statement as a transaction; returns its rows. Raises like `run`."""
        return await self.run(lambda connection: connection.execute(statement, values).fetchall())

    async def erase(self) -> None:
        """Erase all traces of deleted data from the files, which takes longer the more data there is.

        Not a transaction. Raises the errors of `run`, and `store.busy` if another program is reading the
        database.
        """
        await self._run_in_thread(self._erase)

    async def close(self) -> None:
        """Wait for running work, then close."""
        await self._run_in_thread(self._connection.close)

    async def _run_in_thread(self, work: Callable[[], T]) -> T:
        try:
            # Once the thread has started, even a cancelled caller waits for it.
            return await to_thread.run_sync(work, limiter=self._thread)
        except RuntimeError as error:
            if not is_lack_of_threads(error):
                raise
        async with self._thread:  # better the event loop waits than that a write is lost
            return work()

    def is_gone(self) -> bool:
        """Whether the file was removed or replaced: writes are then lost without any error. Blocks."""
        try:
            return _identity(self.path) != self._identity
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # the open file may still be usable
            return False

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self.is_gone():
            raise errors.gone(self.path)
        with _translated_errors(self.path):
            try:
                return self._commit(work)
            except sqlite3.Error as error:
                if self._are_indexes_rebuilt or not errors.is_damage(error):
                    raise
                self._are_indexes_rebuilt = True
                log.warning("the database %s is damaged (%s): its indexes are rebuilt", self.path, error)
                with suppress(sqlite3.Error):  # then the tables are damaged
                    self._commit(_rebuild_indexes)
                return self._commit(work)

    def _commit(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
            return result
        finally:
            connection.rollback()  # does nothing after a commit

    def _erase(self) -> None:
        with _translated_errors(self.path):
            # Deleted cells are already zeroed; VACUUM also removes what page splits left behind. Its
            # temporary copy may be too large for memory, so it goes next to the database: not into a folder
            # that others use, or that is not writable.
            folder = str(self.path.parent.absolute()).replace("'", "''")
            with suppress(sqlite3.Error, UnicodeEncodeError):  # then SQLite chooses a place for it
                self._connection.execute(f"PRAGMA temp_store_directory = '{folder}'")
            self._connection.execute("PRAGMA temp_store = FILE")
            try:
                self._connection.execute("VACUUM")
            finally:
                self._connection.execute("PRAGMA temp_store = MEMORY")
            (is_busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise errors.busy(self.path)


def _rebuild_indexes(connection: sqlite3.Connection) -> None:
    """Rebuild what can be derived from the tables."""
    connection.execute("REINDEX")
    word_indexes = "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE % USING fts5%'"
    for (name,) in connection.execute(word_indexes).fetchall():
        connection.execute(f"INSERT INTO {name} ({name}) VALUES ('rebuild')")  # noqa: S608 - our tables


def _identity(path: Path) -> tuple[int, int]:
    there = path.stat()
    return there.st_dev, there.st_ino


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reported = errors.from_sqlite_error(path, error)
        if reported is None:
            raise
        raise reported from error


def problem_with(path: Path) -> WhisperdError | None:
    """Return the problem of a database, which stays unchanged; None if it has none or is missing. Blocks."""
    try:
        if path.exists():
            _inspect(path, bundled_migrations())
    except _Damaged as damage:
        return errors.damaged(path, str(damage))
    except WhisperdError as error:
        return error.copy()
    except OSError as error:
        return errors.from_os_error(path, error)
    except sqlite3.Error as error:
        return errors.from_sqlite_error(path, error) or errors.unreadable(path, str(error))
    return None


# Opening the database; everything below blocks


class _Damaged(Exception):
    """The file is no usable database of ours."""


def _open(path: Path, migrations: Sequence[Migration], checks: Sequence[Check]) -> Database:
    try:
        with _translated_errors(path):
            try:
                return Database(path, _connect_to_sound(path, migrations, checks), None)
            except _Damaged:  # SQLite also reports a failed read as damage, and the disk may have recovered
                for file in (path, *_side_files(path)):
                    _read_whole(file)
            try:
                return Database(path, _connect_to_sound(path, migrations, checks), None)
            except _Damaged as damage:
                set_aside = _set_aside(path)
                log.warning("the database %s is damaged (%s); it was renamed to %s", path, damage, set_aside)
                _make_private(path)
            return Database(path, _connect(path, migrations), set_aside)
    except OSError as error:
        raise errors.from_os_error(path, error) from error


def _connect_to_sound(
    path: Path, migrations: Sequence[Migration], checks: Sequence[Check]
) -> sqlite3.Connection:
    """Connect to a database, or to a new one. Raises `_Damaged` if it is damaged."""
    _make_private(path)
    _inspect(path, migrations)
    return _connect(path, migrations, checks)


def _read_whole(path: Path) -> None:
    """Raise `OSError` if a file exists but cannot be read to its end."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        while file.read(2**20):
            pass


def _make_private(path: Path) -> None:
    """Create the file if needed, and restrict it and its side files to its owner.

    SQLite creates side files with the mode of the database: those of a program that read it while it was
    read-only are read-only too.
    """
    make_private_folder(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if os.name == "posix":
        for file in (path, *_side_files(path)):
            if file.exists() and file.stat().st_mode & 0o677 != 0o600:
                file.chmod(0o600)


def _inspect(path: Path, migrations: Sequence[Migration]) -> None:
    """Raise `_Damaged` or `store.too_new`. Changes neither the file nor its side files."""
    if path.stat().st_size == 0:
        wal = _side_files(path)[0]
        if wal.exists() and wal.stat().st_size > 0:
            raise _Damaged("it is empty, but its write-ahead log is not")
        return
    try:
        # Read-only: otherwise closing it would write the last program's log back into it.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = _text
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")
            version = version_of(connection)
            if version > len(migrations):
                raise errors.too_new(path, version, len(migrations))
            _check(connection, migrations[: max(version, 0)])
    except sqlite3.Error as error:
        if errors.is_refusal(error):
            raise
        raise _Damaged(str(error)) from error
    except UnicodeDecodeError as error:  # SQLite quotes the text it found
        raise _Damaged("it contains text that is not valid UTF-8") from error


def _check(connection: sqlite3.Connection, applied: Sequence[Migration]) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _Damaged(" ".join(verdict.split()))
    present, expected = columns(connection), columns_made_by(applied)
    if missing := sorted(expected - present):
        raise _Damaged(f"it lacks {', '.join('.'.join(column) for column in missing)}")
    if present and not applied:
        raise _Damaged("it has tables but no version")
    if spoilt := _mistyped_table(connection):
        raise _Damaged(f"its table {spoilt} has a value of the wrong type")
    if broken := connection.execute("PRAGMA foreign_key_check").fetchone():
        raise _Damaged(f"its table {broken[0]} has a reference to a missing row")


def _mistyped_table(connection: sqlite3.Connection) -> str | None:
    """Return a table that has a value of the wrong type for its column, as a flipped bit may leave; None if
    there is none. SQLite detects this neither when writing nor in its own checks."""
    tests: dict[str, list[str]] = {}
    query = "SELECT t.name, c.name, lower(c.type) FROM sqlite_master t, pragma_table_info(t.name) c"
    for table, column, type_ in connection.execute(f"{query} WHERE t.type = 'table'"):
        if type_ in _VALUE_TYPES:
            tests.setdefault(table, []).append(f"typeof({_quoted(column)}) NOT IN ('{type_}', 'null')")
    for table, conditions in tests.items():
        statement = f"SELECT 1 FROM {_quoted(table)} WHERE {' OR '.join(conditions)} LIMIT 1"  # noqa: S608
        if connection.execute(statement).fetchone() is not None:
            return table
    return None


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _set_aside(path: Path) -> Path:
    """Rename a database and its side files to a free name; returns the name."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    names = (f"{path.name}.damaged-{stamp}{suffix}" for suffix in suffixes)
    target = next(
        target
        for target in map(path.with_name, names)
        if not any(os.path.lexists(file) for file in (target, *_side_files(target)))
    )
    # The database last: if we die in between, a new one must not find the old log next to it.
    for old, new in [*zip(_side_files(path), _side_files(target), strict=True), (path, target)]:
        if old.exists():
            old.rename(new)
    return target


def _side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SIDE_FILES]


def _connect(path: Path, migrations: Sequence[Migration], checks: Sequence[Check] = ()) -> sqlite3.Connection:
    # Used by one thread at a time, though not always the same one. Transactions are begun explicitly.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {MOST_LOG_BYTES}")
        # Deleted data is overwritten, and sorting never uses temporary files.
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA foreign_keys = OFF")
        migrate(connection, migrations)
        connection.execute("PRAGMA foreign_keys = ON")
        for check in checks:
            check(connection)
    except ValueError as error:
        connection.close()
        raise _Damaged(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _text(data: bytes) -> str:
    """Decode text as well as possible if it is damaged; its reader judges it."""
    return data.decode(errors="replace")
