"""The saved runtimes in the database, and which of them is the default. The manager enforces the rules."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from whisperd.decodable import decodable
from whisperd.runtimes.preset import RuntimePreset
from whisperd.store import Database, damaged

__all__ = ["PresetStore", "check_presets"]

COLUMNS = RuntimePreset.__struct_fields__
_LIST = ", ".join(COLUMNS)
_PLACES = ", ".join(f":{column}" for column in COLUMNS)
_SETTINGS = ", ".join(f"{column} = :{column}" for column in COLUMNS)


class PresetStore:
    """Stores runtimes. Each method is one transaction, and raises what `Database.run` raises as well."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> tuple[tuple[RuntimePreset, ...], str | None]:
        """Return all runtimes, the oldest first, and the id of the default, None until one is set."""

        def work(connection: sqlite3.Connection) -> tuple[tuple[RuntimePreset, ...], str | None]:
            return _presets(connection), _default_id(connection)

        try:
            return await self._database.run(work)
        except ValueError as error:
            raise damaged(self._database.path, str(error)) from error

    async def insert(self, preset: RuntimePreset, *, make_default: bool = False) -> None:
        """Save a new runtime and, with `make_default`, make it the default."""

        def work(connection: sqlite3.Connection) -> None:
            statement = f"INSERT INTO runtimes ({_LIST}) VALUES ({_PLACES})"  # noqa: S608 - our columns
            connection.execute(statement, _to_row(preset))
            if make_default:
                _make_default(connection, preset.id)

        await self._database.run(work)

    async def update(self, preset: RuntimePreset) -> None:
        """Save the changes to a runtime."""
        statement = f"UPDATE runtimes SET {_SETTINGS} WHERE id = :id"  # noqa: S608 - our columns
        await self._database.execute(statement, _to_row(preset))

    async def delete(self, id_: str) -> None:
        """Delete a runtime, which must not be the default."""
        await self._database.execute("DELETE FROM runtimes WHERE id = ?", (id_,))

    async def set_default(self, id_: str) -> None:
        """Make a runtime the default instead of the current one."""
        await self._database.run(lambda connection: _make_default(connection, id_))


def check_presets(connection: sqlite3.Connection) -> None:
    """Raise `ValueError` if the saved runtimes are unusable: one is damaged, or there is no default."""
    if _presets(connection) and _default_id(connection) is None:
        raise ValueError("no runtime in it is the default")


def _presets(connection: sqlite3.Connection) -> tuple[RuntimePreset, ...]:
    rows = connection.execute(f"SELECT {_LIST} FROM runtimes ORDER BY created, rowid")  # noqa: S608 - our columns
    return tuple(map(_from_row, rows))


def _from_row(row: tuple[Any, ...]) -> RuntimePreset:
    values = dict(zip(COLUMNS, row, strict=True))
    try:
        values["device_index"] = msgspec.json.decode(values["device_index"])
        return msgspec.convert(values, decodable(RuntimePreset), strict=False)  # SQLite has no booleans
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"the runtime {values['name']} in it is not valid ({error})") from error


def _default_id(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT id FROM default_runtime").fetchone()
    return None if row is None else row[0]


def _make_default(connection: sqlite3.Connection, id_: str) -> None:
    if connection.execute("UPDATE default_runtime SET id = ?", (id_,)).rowcount == 0:
        connection.execute("INSERT INTO default_runtime (only_row, id) VALUES (1, ?)", (id_,))


def _to_row(preset: RuntimePreset) -> dict[str, Any]:
    values = msgspec.structs.asdict(preset)
    return {**values, "device_index": msgspec.json.encode(preset.device_index).decode()}
