"""Migrations: numbered SQL files that bring a database from one version to the next.

The version of a database is the number of the last migration applied (`PRAGMA user_version`).
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

__all__ = ["Column", "Migration", "bundled_migrations", "columns", "columns_made_by", "migrate", "version_of"]

Column = tuple[str, str]
"""The name of a table and of one of its columns."""


class Migration(NamedTuple):
    """The step from the previous version to version `number`."""

    number: int
    sql: str


@functools.cache
def bundled_migrations() -> tuple[Migration, ...]:
    """Return the program's migrations, `migrations/0001_runtimes.sql` and so on, in order."""
    folder = resources.files(__package__).joinpath("migrations")
    files = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return tuple(sorted(Migration(int(file.name[:4]), file.read_text("utf-8")) for file in files))


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Apply the missing migrations, each in one transaction.

    Foreign keys must be off, so that a migration can recreate a table.
    """
    for migration in migrations:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read under the lock: another process may be migrating too.
            if version_of(connection) < migration.number:
                _apply(connection, migration)
            connection.execute("COMMIT")
        finally:
            connection.rollback()  # does nothing after a commit


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    for statement in _statements(migration.sql):
        connection.execute(statement)
    if broken := connection.execute("PRAGMA foreign_key_check").fetchall():
        raise sqlite3.IntegrityError(
            f"migration {migration.number} leaves references to missing rows: {broken}"
        )
    connection.execute(f"PRAGMA user_version = {migration.number}")


def _statements(sql: str) -> Iterator[str]:
    """Split SQL into statements, since `executescript` would commit first."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    yield statement  # the last statement if it has no semicolon, or nothing


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of a database; 0 for a new one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def columns(connection: sqlite3.Connection) -> set[Column]:
    """Return every column of every table."""
    query = "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
    return set(connection.execute(query))


def columns_made_by(migrations: Sequence[Migration]) -> set[Column]:
    """Return the columns that a database has after these migrations."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        migrate(connection, migrations)
        return columns(connection)
    finally:
        connection.close()
