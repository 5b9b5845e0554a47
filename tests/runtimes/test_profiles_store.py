"""Saved profiles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import examples
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.preset import RuntimePreset
from whisperd.runtimes.presets import PresetStore
from whisperd.runtimes.profile_manager import ProfileChanges, ProfileManager
from whisperd.runtimes.profiles import Profile, ProfileStore
from whisperd.store import Database, open_database

pytestmark = pytest.mark.anyio

NOW = "2026-01-02T03:04:05.678Z"


def profile(name: str, **fields: Any) -> Profile:
    return Profile(name=name, **{"created": NOW, "changed": NOW, **fields})


EDITOR = profile("editor", runtime="aaaaaaaa", options={"language": "de", "temperature": [0.0, 0.5]})
PLAIN = profile("plain")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path / "whisperd.sqlite3") as database:
        yield database


@pytest.fixture
async def store(database: Database) -> ProfileStore:
    store = ProfileStore(database)
    await store.insert(PLAIN)
    await store.insert(EDITOR)
    return store


async def test_profiles_are_loaded_by_name(store: ProfileStore) -> None:
    assert await store.load() == [EDITOR, PLAIN]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(50))
@given(options=st.dictionaries(st.text("abc_"), json_values, max_size=4))
async def test_saved_options_are_read_back(options: dict[str, Any], store: ProfileStore) -> None:
    saved = profile("x", options=options)
    await store.insert(saved)
    assert await store.load() == [EDITOR, PLAIN, saved]
    await store.delete("x")


async def test_an_update_replaces_all_fields_and_the_name(store: ProfileStore) -> None:
    changed = Profile(
        name="vim",
        runtime=None,
        options={"beam_size": 1},
        created=NOW,
        changed="2027-01-01T00:00:00Z",
        version=2,
    )
    await store.update("editor", changed)
    assert await store.load() == [PLAIN, changed]


@pytest.fixture
async def profiles(store: ProfileStore) -> ProfileManager:
    runtimes: Any = SimpleNamespace(id_of=lambda name: name)
    manager = ProfileManager(store, runtimes, check_options=lambda _: None)
    await manager.open()
    return manager


@pytest.mark.parametrize(
    ("attempt", "code", "says"),
    [
        (lambda all: all.create(ProfileChanges(name="plain")), "profile.exists", "another name"),
        (lambda all: all.edit("editor", ProfileChanges(name="plain")), "profile.exists", "another name"),
        (lambda all: all.edit("plain", ProfileChanges(), 2), "profile.stale", "whisperctl profiles show"),
        (lambda all: all.edit("vim", ProfileChanges()), "profile.unknown", "editor, plain"),
        (lambda all: all.delete("vim"), "profile.unknown", "editor, plain"),
    ],
)
async def test_an_invalid_change_changes_nothing(
    profiles: ProfileManager, store: ProfileStore, attempt: Any, code: str, says: str
) -> None:
    with pytest.raises(WhisperdError) as raised:
        await attempt(profiles)
    assert raised.value.code == code and says in raised.value.fix
    assert await store.load() == profiles.all() == [EDITOR, PLAIN]


async def test_a_change_of_the_current_version_is_saved(
    profiles: ProfileManager, store: ProfileStore
) -> None:
    await profiles.edit("plain", ProfileChanges(name="plain", runtime="bbbbbbbb"), 1)
    assert await store.load() == profiles.all()
    assert [(one.runtime, one.version) for one in profiles.all()] == [("aaaaaaaa", 1), ("bbbbbbbb", 2)]


async def test_a_deleted_runtime_leaves_its_profile(database: Database, store: ProfileStore) -> None:
    presets = PresetStore(database)
    await presets.insert(RuntimePreset(id="aaaaaaaa", name="base", model="base", created=NOW, changed=NOW))
    await presets.delete("aaaaaaaa")
    assert await store.load() == [EDITOR, PLAIN]


@pytest.mark.parametrize("change", ["options = '[]'", "options = 'no'", "options = x'ff'"])
async def test_a_damaged_row_is_reported(change: str, database: Database, store: ProfileStore) -> None:
    await database.run(
        lambda connection: connection.execute(f"UPDATE profiles SET {change} WHERE name = 'plain'")
    )
    with pytest.raises(WhisperdError) as raised:
        await store.load()
    assert raised.value.code == "store.damaged"
