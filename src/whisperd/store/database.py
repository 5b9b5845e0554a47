"""The data base: opened, checked, brought up to date, and asked from one thread at a time.

A damaged data base is never written to. It is renamed and stays for its owner to look at, and a new
one is begun, so that the daemon starts in any case. One that a newer program has written, or that the
system does not let us use, is left as it is.
"""

from __future__ import annotations

import datetime
import itertools
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import anyio
from anyio import to_thread

from whisperd.paths import make_private_folder
from whisperd.rpc.errors import WhisperdError
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
"""How long another process may hold the data base before that is an error."""
MOST_LOG_BYTES: Final = 8 * 2**20
"""What the log of transactions keeps of the disk: twice what it usually takes. Once many texts were forgotten
together, it would stay as large as they were."""
SIDE_FILES: Final = ("-wal", "-shm")
"""What SQLite keeps beside a data base. The first may hold what was committed last."""

_VALUE_TYPES: Final = ("blob", "integer", "real", "text")
"""What columns are declared to hold, and what SQLite calls values."""

T = TypeVar("T")
Check = Callable[[sqlite3.Connection], None]
"""Looks at what a room has saved. Raises `ValueError`, with the reason, if that cannot be."""


@asynccontextmanager
async def open_database(
    path: Path, migrations: Sequence[Migration] | None = None, checks: Sequence[Check] = ()
) -> AsyncIterator[Database]:
    """Open a data base during the block, made if there is none and brought up to date.

    A damaged one, or one of which a check says so, is set aside (`Database.set_aside`). Raises
    `WhisperdError` (`store.too_new`, `store.unreadable`, `disk.full`).
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
    """An open data base. Everything that is done to it is one transaction, and one after the other."""

    def __init__(self, path: Path, connection: sqlite3.Connection, set_aside: Path | None) -> None:
        self.path = path
        self.set_aside = set_aside
        """Where the damaged data base went that was found when this one was opened."""
        self._connection = connection
        self._identity = _identity(path)
        # One thread at a time, and none of those that may all be waiting for something slow.
        self._thread = anyio.CapacityLimiter(1)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in a thread, in a transaction: all of it is kept, or with an exception nothing.

        Who is cancelled while it waits for its turn has changed nothing; work that has begun is
        finished and answered, so that it is always known whether it was kept. `work` does not commit.
        Raises what `work` raises, and `WhisperdError` (`disk.full`, `store.unreadable`, `store.damaged`,
        `store.gone`).
        """
        # The thread is waited for once it has begun, also by who is cancelled.
        return await to_thread.run_sync(self._transact, work, limiter=self._thread)

    async def erase(self) -> None:
        """Leave nothing in the files of what was deleted; takes longer the more there is. In no transaction.

        Raises like `run`, and `store.busy` if another program is reading it.
        """
        await to_thread.run_sync(self._erase, limiter=self._thread)

    async def close(self) -> None:
        """Wait for the work that was begun, and close."""
        await to_thread.run_sync(self._connection.close, limiter=self._thread)

    def is_gone(self) -> bool:
        """Whether its file was removed or replaced: what is written is lost, and no error tells. Blocks."""
        try:
            return _identity(self.path) != self._identity
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # the file that is open may be used all the same
            return False

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if self.is_gone():
            raise errors.gone(self.path)
        with _errors_told(self.path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
                return result
            finally:
                connection.rollback()  # does nothing after a commit

    def _erase(self) -> None:
        with _errors_told(self.path):
            # Deleted cells are zeroed already; what was left where pages were divided goes with them.
            # Its copy is of what is kept, and may be too large for the memory. It lies where the texts lie,
            # not in a folder that others use, or that cannot be written to.
            folder = str(self.path.parent.absolute()).replace("'", "''")
            with suppress(sqlite3.Error, UnicodeEncodeError):  # SQLite has to find a place for it then
                self._connection.execute(f"PRAGMA temp_store_directory = '{folder}'")
            self._connection.execute("PRAGMA temp_store = FILE")
            try:
                self._connection.execute("VACUUM")
            finally:
                self._connection.execute("PRAGMA temp_store = MEMORY")
            (is_busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise errors.busy(self.path)


def _identity(path: Path) -> tuple[int, int]:
    there = path.stat()
    return there.st_dev, there.st_ino


@contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        told = errors.from_sqlite_error(path, error)
        if told is None:
            raise
        raise told from error


def problem_with(path: Path) -> WhisperdError | None:
    """What is wrong with a data base, which stays as it is; None if nothing is, or there is none. Blocks."""
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


# Opening; all of it blocks


class _Damaged(Exception):
    """The file holds no data base of ours that can be used."""


def _open(path: Path, migrations: Sequence[Migration], checks: Sequence[Check]) -> Database:
    try:
        with _errors_told(path):
            try:
                _make_private(path)
                _inspect(path, migrations)
                return Database(path, _connect(path, migrations, checks), None)
            except _Damaged as damage:
                set_aside = _set_aside(path)
                log.warning("the data base %s is damaged (%s); it is kept as %s", path, damage, set_aside)
                _make_private(path)
            return Database(path, _connect(path, migrations), set_aside)
    except OSError as error:
        raise errors.from_os_error(path, error) from error


def _make_private(path: Path) -> None:
    """Have a file that its owner alone may read; SQLite gives what it puts beside it the same mode.

    So what somebody put there who read the file while it was read-only still is.
    """
    make_private_folder(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if os.name == "posix":
        for file in (path, *_beside(path)):
            if file.exists() and file.stat().st_mode & 0o677 != 0o600:
                file.chmod(0o600)


def _inspect(path: Path, migrations: Sequence[Migration]) -> None:
    """Raise `_Damaged`, or `store.too_new`. Changes nothing: neither the file nor what is beside it."""
    if path.stat().st_size == 0:
        wal = _beside(path)[0]
        if wal.exists() and wal.stat().st_size > 0:
            raise _Damaged("it is empty, and what was to be written to it is not")
        return
    try:
        # For reading only: closing it would otherwise write to it what the last program left beside it.
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
    except UnicodeDecodeError as error:  # SQLite quotes what it found
        raise _Damaged("what should be text in it is not") from error


def _check(connection: sqlite3.Connection, applied: Sequence[Migration]) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _Damaged(" ".join(verdict.split()))
    present, expected = columns(connection), columns_made_by(applied)
    if missing := sorted(expected - present):
        raise _Damaged(f"it lacks {', '.join('.'.join(column) for column in missing)}")
    if present and not applied:
        raise _Damaged("it has tables and no version")
    if spoilt := _mistyped_table(connection):
        raise _Damaged(f"{spoilt} in it has a value of another type than its column")
    if broken := connection.execute("PRAGMA foreign_key_check").fetchone():
        raise _Damaged(f"{broken[0]} in it refers to nothing")


def _mistyped_table(connection: sqlite3.Connection) -> str | None:
    """A table with a value that its column is not made for, as one flipped bit leaves: SQLite minds neither
    when it is written nor when it is checked. None where there is none."""
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
    """Rename a data base, with what is beside it, to a name that nothing has; returns the name."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    names = (f"{path.name}.damaged-{stamp}{suffix}" for suffix in suffixes)
    target = next(
        target
        for target in map(path.with_name, names)
        if not any(os.path.lexists(file) for file in (target, *_beside(target)))
    )
    # Itself last: if we end in between, a new data base must not find the old one's log beside it.
    for old, new in [*zip(_beside(path), _beside(target), strict=True), (path, target)]:
        if old.exists():
            old.rename(new)
    return target


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in SIDE_FILES]


def _connect(path: Path, migrations: Sequence[Migration], checks: Sequence[Check] = ()) -> sqlite3.Connection:
    # Used by one thread at a time, though not always by the same one. Transactions are begun by hand.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {MOST_LOG_BYTES}")
        # What is deleted is written over, and what is sorted never goes into a file of its own.
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
    """Text that was damaged is shown as well as it can be, and judged by whoever reads it."""
    return data.decode(errors="replace")
