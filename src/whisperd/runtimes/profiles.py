"""Profiles: a user's or program's saved choice of runtime and job options, and their storage."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from whisperd.decodable import decodable
from whisperd.store import Database, damaged

__all__ = ["Profile", "ProfileStore", "check_profiles"]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A named choice of a runtime and default job options."""

    name: str
    """Unique, and valid for `whisperd.runtimes.preset.check_name`."""
    runtime: str | None = None
    """The id of a runtime, which may have been deleted since; None for the default one."""
    options: dict[str, Any] = {}
    """Job options, as in a request."""
    created: str
    """RFC 3339, like `changed`."""
    changed: str
    version: int = 1
    """Incremented with every change."""


COLUMNS = Profile.__struct_fields__
_LIST = ", ".join(COLUMNS)
_PLACES = ", ".join(f":{column}" for column in COLUMNS)
_SETTINGS = ", ".join(f"{column} = :{column}" for column in COLUMNS)


class ProfileStore:
    """Stores profiles. Each method is one transaction, and raises what `Database.run` raises as well."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[Profile]:
        """Return all profiles, sorted by name."""
        try:
            return await self._database.run(_profiles)
        except ValueError as error:
            raise damaged(self._database.path, str(error)) from error

    async def insert(self, profile: Profile) -> None:
        """Save a new profile."""
        statement = f"INSERT INTO profiles ({_LIST}) VALUES ({_PLACES})"  # noqa: S608 - our columns
        await self._database.execute(statement, _to_row(profile))

    async def update(self, name: str, profile: Profile) -> None:
        """Save the changes to the profile with this name; they may include a new name."""
        statement = f"UPDATE profiles SET {_SETTINGS} WHERE name = :old_name"  # noqa: S608 - our columns
        row = {**_to_row(profile), "old_name": name}
        await self._database.execute(statement, row)

    async def delete(self, name: str) -> None:
        """Delete a profile."""
        await self._database.execute("DELETE FROM profiles WHERE name = ?", (name,))


def check_profiles(connection: sqlite3.Connection) -> None:
    """Raise `ValueError` if a saved profile is unusable."""
    _profiles(connection)


def _profiles(connection: sqlite3.Connection) -> list[Profile]:
    rows = connection.execute(f"SELECT {_LIST} FROM profiles ORDER BY name")  # noqa: S608 - our columns
    return list(map(_from_row, rows))


def _from_row(row: tuple[Any, ...]) -> Profile:
    values = dict(zip(COLUMNS, row, strict=True))
    try:
        values["options"] = msgspec.json.decode(values["options"])
        return msgspec.convert(values, decodable(Profile))
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"the profile {values['name']} in it is not valid ({error})") from error


def _to_row(profile: Profile) -> dict[str, Any]:
    values = msgspec.structs.asdict(profile)
    return {**values, "options": msgspec.json.encode(profile.options).decode()}
