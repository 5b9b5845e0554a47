"""The stored history of each runtime: limited, ordered, and deleted with the runtime."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from whisperd.rpc.events import RuntimeStatusName
from whisperd.runtimes.history import KEPT_STATUS_CHANGES, HistoryStore, StatusChange
from whisperd.runtimes.preset import RuntimePreset
from whisperd.runtimes.presets import PresetStore
from whisperd.store import Database, Saver, open_database

pytestmark = pytest.mark.anyio

NOW = "2026-01-02T03:04:05.678Z"
BASE = RuntimePreset(id="aaaaaaaa", name="base", model="base", created=NOW, changed=NOW)
OTHER = RuntimePreset(id="bbbbbbbb", name="other", model="tiny", created=NOW, changed=NOW)


def moment(detail: str, status: RuntimeStatusName = "unloaded") -> StatusChange:
    return StatusChange(time=NOW, status=status, detail=detail, error={"code": "a.b", "data": {"n": 1}})


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "whisperd.sqlite3") as database:
        presets = PresetStore(database)
        await presets.insert(BASE, make_default=True)
        await presets.insert(OTHER)
        yield database


@pytest.fixture
def saver(database: Database) -> Saver:
    return Saver(database)


@pytest.fixture
def store(saver: Saver) -> HistoryStore:
    return HistoryStore(saver)


async def test_the_history_is_stored_in_order(store: HistoryStore, saver: Saver) -> None:
    for number in range(3):
        store.add(BASE.id, moment(f"{number}"))
        store.add(OTHER.id, moment(f"other {number}"))
    await saver.flush()
    assert await store.resume() == {
        BASE.id: [moment("0"), moment("1"), moment("2")],
        OTHER.id: [moment("other 0"), moment("other 1"), moment("other 2")],
    }


async def test_the_history_is_limited(store: HistoryStore, saver: Saver) -> None:
    store.add(OTHER.id, moment("of another one"))
    for number in range(KEPT_STATUS_CHANGES + 7):
        store.add(BASE.id, moment(f"{number}"))
    await saver.flush()
    histories = await store.resume()
    assert [one.detail for one in histories[BASE.id]] == [f"{n}" for n in range(7, KEPT_STATUS_CHANGES + 7)]
    assert len(histories[OTHER.id]) == 1


async def test_the_history_is_deleted_with_its_runtime(
    store: HistoryStore, saver: Saver, database: Database
) -> None:
    store.add(OTHER.id, moment("before"))
    await saver.flush()
    await PresetStore(database).delete(OTHER.id)
    store.add(OTHER.id, moment("too late"))
    await saver.flush()
    assert await store.resume() == {}


async def test_unreadable_entries_are_skipped(store: HistoryStore, saver: Saver, database: Database) -> None:
    def spoil(connection: sqlite3.Connection) -> None:
        for text in ("{", '{"time": 1}', '{"time": "x", "status": "dancing", "detail": null, "error": null}'):
            connection.execute("INSERT INTO runtime_history VALUES (?, ?)", (BASE.id, text))

    await database.run(spoil)
    store.add(BASE.id, moment("sound"))
    await saver.flush()
    assert await store.resume() == {BASE.id: [moment("sound")]}


@pytest.mark.parametrize("status", ["loaded", "loading", "failed", "cancelled"])
async def test_a_restart_is_recorded_as_unloaded(
    store: HistoryStore, saver: Saver, status: RuntimeStatusName
) -> None:
    store.add(BASE.id, moment("the last", status))
    await saver.flush()
    first, restart = (await store.resume())[BASE.id]
    assert (first.status, restart.status, restart.error) == (status, "unloaded", None)
    await saver.flush()
    assert await store.resume() == {BASE.id: [first, restart]}
