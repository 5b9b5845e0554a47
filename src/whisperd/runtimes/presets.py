"""The saved runtimes in the data base, and which of them is the default."""

from __future__ import annotations

import sqlite3
from shlex import quote
from typing import Any

import msgspec

from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import errors
from whisperd.runtimes.preset import RuntimePreset
from whisperd.store import Database, damaged

__all__ = ["PresetStore", "check_presets"]

COLUMNS = RuntimePreset.__struct_fields__
_LIST = ", ".join(COLUMNS)
_PLACES = ", ".join(f":{column}" for column in COLUMNS)
_SETTINGS = ", ".join(f"{column} = :{column}" for column in COLUMNS)


class PresetStore:
    """Saved runtimes. Each method is one transaction, and raises what `Database.run` raises as well."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> tuple[tuple[RuntimePreset, ...], str | None]:
        """All of them, the oldest first, and the id of the default: None only before one was made so."""

        def work(connection: sqlite3.Connection) -> tuple[tuple[RuntimePreset, ...], str | None]:
            return _presets(connection), _default_id(connection)

        try:
            return await self._database.run(work)
        except ValueError as error:
            raise damaged(self._database.path, str(error)) from error

    async def insert(self, preset: RuntimePreset, *, make_default: bool = False) -> None:
        """Save a new one, as the default if asked to. Raises `runtime.exists`."""

        def work(connection: sqlite3.Connection) -> None:
            _check_free(connection, preset)
            statement = f"INSERT INTO runtimes ({_LIST}) VALUES ({_PLACES})"  # noqa: S608 - our columns
            connection.execute(statement, _to_row(preset))
            if make_default:
                _make_default(connection, preset.id)

        await self._database.run(work)

    async def update(self, preset: RuntimePreset, expected_version: int) -> None:
        """Save what was changed in one of this version.

        Raises `runtime.unknown`, `runtime.stale`, `runtime.exists`.
        """

        def work(connection: sqlite3.Connection) -> None:
            _check_version(connection, preset, expected_version)
            _check_free(connection, preset)
            connection.execute(f"UPDATE runtimes SET {_SETTINGS} WHERE id = :id", _to_row(preset))  # noqa: S608

        await self._database.run(work)

    async def delete(self, id_: str) -> None:
        """Forget one. Raises `runtime.unknown`, `runtime.is_default`."""

        def work(connection: sqlite3.Connection) -> None:
            if id_ == _default_id(connection):
                (name,) = connection.execute("SELECT name FROM runtimes WHERE id = ?", (id_,)).fetchone()
                raise errors.refused("runtime.is_default", name)
            if connection.execute("DELETE FROM runtimes WHERE id = ?", (id_,)).rowcount == 0:
                raise errors.unknown(id_, _names(connection))

        await self._database.run(work)

    async def set_default(self, id_: str) -> None:
        """Make one the default in place of the one that is. Raises `runtime.unknown`."""

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute("SELECT 1 FROM runtimes WHERE id = ?", (id_,)).fetchone() is None:
                raise errors.unknown(id_, _names(connection))
            _make_default(connection, id_)

        await self._database.run(work)


def check_presets(connection: sqlite3.Connection) -> None:
    """Raise `ValueError` if what is saved cannot be used: a runtime is spoilt, or there is no default."""
    if _presets(connection) and _default_id(connection) is None:
        raise ValueError("no runtime in it is the default")


def _presets(connection: sqlite3.Connection) -> tuple[RuntimePreset, ...]:
    rows = connection.execute(f"SELECT {_LIST} FROM runtimes ORDER BY created, rowid")  # noqa: S608 - our columns
    return tuple(map(_from_row, rows))


def _from_row(row: tuple[Any, ...]) -> RuntimePreset:
    values = dict(zip(COLUMNS, row, strict=True))
    try:
        values["device_index"] = msgspec.json.decode(values["device_index"])
        return msgspec.convert(values, RuntimePreset, strict=False)  # SQLite has no booleans
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"the runtime {values['name']} in it is not valid ({error})") from error


def _default_id(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT id FROM default_runtime").fetchone()
    return None if row is None else row[0]


def _make_default(connection: sqlite3.Connection, id_: str) -> None:
    if connection.execute("UPDATE default_runtime SET id = ?", (id_,)).rowcount == 0:
        connection.execute("INSERT INTO default_runtime (only_row, id) VALUES (1, ?)", (id_,))


def _names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM runtimes")]


def _check_free(connection: sqlite3.Connection, preset: RuntimePreset) -> None:
    """Whoever names a runtime, by name or by id, is to mean one."""
    query = "SELECT name FROM runtimes WHERE id <> :id AND (name = :name OR id = :name OR name = :id)"
    taken = connection.execute(query, {"id": preset.id, "name": preset.name}).fetchone()
    if taken is not None:
        also = "" if taken[0] == preset.name else f", for it is the id of {taken[0]}"
        raise WhisperdError(
            "runtime.exists",
            f"A runtime cannot be named {preset.name}{also or ': there is one of that name already'}.",
            f"Choose another name, or change that one with `whisperctl runtimes edit {quote(taken[0])}`.",
            {"name": preset.name},
        )


def _check_version(connection: sqlite3.Connection, preset: RuntimePreset, expected_version: int) -> None:
    row = connection.execute("SELECT version FROM runtimes WHERE id = ?", (preset.id,)).fetchone()
    if row is None:
        raise errors.unknown(preset.name, _names(connection))
    if row[0] != expected_version:
        raise WhisperdError(
            "runtime.stale",
            f"The runtime {preset.name} was changed by somebody else meanwhile.",
            f"Look at it with `whisperctl runtimes show {quote(preset.name)}`, then change it again.",
            {"name": preset.name, "version": row[0], "expected": expected_version},
        )


def _to_row(preset: RuntimePreset) -> dict[str, Any]:
    values = msgspec.structs.asdict(preset)
    return {**values, "device_index": msgspec.json.encode(preset.device_index).decode()}
