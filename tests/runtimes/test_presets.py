"""Saved runtimes: the schema enforces unique names and exactly one default."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fuzzing import examples
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.preset import RuntimePreset
from whisperd.runtimes.presets import PresetStore
from whisperd.store import Database, open_database

pytestmark = pytest.mark.anyio

NOW = "2026-01-02T03:04:05.678Z"


def preset(id_: str, name: str, **fields: Any) -> RuntimePreset:
    return RuntimePreset(id=id_, name=name, **{"model": "base", "created": NOW, "changed": NOW, **fields})


BASE = preset("aaaaaaaa", "base")
TINY = preset("bbbbbbbb", "tiny")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "whisperd.sqlite3") as database:
        yield database


@pytest.fixture
async def store(database: Database) -> PresetStore:
    """A store with a default and another runtime."""
    store = PresetStore(database)
    await store.insert(BASE, make_default=True)
    await store.insert(TINY)
    return store


async def test_a_new_store_is_empty(database: Database) -> None:
    assert await PresetStore(database).load() == ((), None)


async def test_runtimes_are_loaded_oldest_first(store: PresetStore) -> None:
    older = preset("cccccccc", "zebra", created="2025-01-02T03:04:05.678Z")
    await store.insert(older)
    assert await store.load() == ((older, BASE, TINY), BASE.id)


presets = st.builds(
    RuntimePreset,
    id=st.just("cccccccc"),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}", fullmatch=True).filter(
        lambda name: name not in ("base", "tiny", "aaaaaaaa", "bbbbbbbb")
    ),
    model=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    device_index=st.lists(st.integers(0, 2**40), unique=True, max_size=5).map(tuple),
    cpu_threads=st.integers(0, 1024),
    workers=st.integers(0, 256),
    batch_size=st.integers(1, 256),
    keep_alive=st.floats(0, 1e9) | st.just(-1.0),
    created=st.just(NOW),
    changed=st.just(NOW),
    version=st.integers(1, 2**40),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(50))
@given(saved=presets)
async def test_saved_runtimes_are_read_back(saved: RuntimePreset, store: PresetStore) -> None:
    await store.insert(saved)
    assert await store.load() == ((BASE, TINY, saved), BASE.id)
    await store.delete(saved.id)


async def test_an_update_replaces_all_fields(store: PresetStore) -> None:
    changed = replace(
        TINY, name="large", device_index=(0, 1), keep_alive=-1.0, enabled=False, protected=True, version=2
    )
    await store.update(changed)
    assert await store.load() == ((BASE, changed), BASE.id)


# The default


async def test_the_default_is_changed(store: PresetStore) -> None:
    await store.set_default(TINY.id)
    assert (await store.load())[1] == TINY.id
    await store.set_default(TINY.id)
    assert (await store.load())[1] == TINY.id


async def test_a_new_runtime_can_become_the_default_at_once(store: PresetStore) -> None:
    await store.insert(preset("cccccccc", "new"), make_default=True)
    assert (await store.load())[1] == "cccccccc"


async def test_the_default_cannot_be_deleted_before_another_is_set(store: PresetStore) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await store.delete(BASE.id)
    await store.set_default(TINY.id)
    await store.delete(BASE.id)
    assert await store.load() == ((TINY,), TINY.id)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM runtimes WHERE id = 'aaaaaaaa'",
        "DELETE FROM runtimes",
        "DELETE FROM default_runtime",
        "INSERT INTO default_runtime VALUES (1, 'bbbbbbbb')",
        "INSERT INTO default_runtime VALUES (2, 'bbbbbbbb')",
        "UPDATE default_runtime SET id = 'cccccccc'",
        "UPDATE default_runtime SET id = NULL",
        "UPDATE runtimes SET id = 'cccccccc' WHERE id = 'aaaaaaaa'",
        "UPDATE runtimes SET name = 'base'",
        "UPDATE runtimes SET batch_size = 0",
    ],
)
async def test_the_schema_forbids_inconsistent_changes(
    statement: str, database: Database, store: PresetStore
) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await database.run(lambda connection: connection.execute(statement))
    assert await store.load() == ((BASE, TINY), BASE.id)


@pytest.mark.parametrize(
    "change", ["device = 'tpu'", "device_index = 'none'", "device_index = 3", "name = x'ff00'"]
)
async def test_a_damaged_row_is_reported(change: str, database: Database, store: PresetStore) -> None:
    await database.run(
        lambda connection: connection.execute(f"UPDATE runtimes SET {change} WHERE id = 'bbbbbbbb'")
    )
    with pytest.raises(WhisperdError) as raised:
        await store.load()
    assert raised.value.code == "store.damaged"
