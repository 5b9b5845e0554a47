"""The saved profiles."""

from __future__ import annotations

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


async def test_what_is_inserted_is_there_by_name(store: ProfileStore) -> None:
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
async def test_whatever_options_are_saved_are_read_again(
    options: dict[str, Any], store: ProfileStore
) -> None:
    saved = profile("x", options=options)
    await store.insert(saved)
    assert await store.load() == [EDITOR, PLAIN, saved]
    await store.delete("x")


async def test_names_are_unique(store: ProfileStore) -> None:
    for attempt in (store.insert(profile("plain")), store.update("editor", replace(EDITOR, name="plain"), 1)):
        with pytest.raises(WhisperdError) as raised:
            await attempt
        assert raised.value.code == "profile.exists"
        assert "another name" in raised.value.fix
    assert await store.load() == [EDITOR, PLAIN]


async def test_an_update_replaces_all_fields_and_the_name(store: ProfileStore) -> None:
    changed = Profile(
        name="vim",
        runtime=None,
        options={"beam_size": 1},
        created=NOW,
        changed="2027-01-01T00:00:00Z",
        version=2,
    )
    await store.update("editor", changed, expected_version=1)
    assert await store.load() == [PLAIN, changed]


async def test_a_change_to_an_older_version_is_refused(store: ProfileStore) -> None:
    await store.update("plain", replace(PLAIN, runtime="bbbbbbbb", version=2), expected_version=1)
    with pytest.raises(WhisperdError) as raised:
        await store.update("plain", replace(PLAIN, runtime="cccccccc", version=2), expected_version=1)
    assert raised.value.code == "profile.stale"
    assert "whisperctl profiles show" in raised.value.fix
    assert (await store.load())[1].runtime == "bbbbbbbb"


async def test_what_is_not_there_is_unknown(store: ProfileStore) -> None:
    for attempt in (store.update("vim", profile("vim"), 1), store.delete("vim")):
        with pytest.raises(WhisperdError) as raised:
            await attempt
        assert raised.value.code == "profile.unknown"
        assert "editor, plain" in raised.value.fix


async def test_a_deleted_runtime_leaves_its_profile(database: Database, store: ProfileStore) -> None:
    presets = PresetStore(database)
    await presets.insert(RuntimePreset(id="aaaaaaaa", name="base", model="base", created=NOW, changed=NOW))
    await presets.delete("aaaaaaaa")
    assert await store.load() == [EDITOR, PLAIN]


@pytest.mark.parametrize("change", ["options = '[]'", "options = 'no'", "options = x'ff'"])
async def test_a_row_that_somebody_spoilt_says_so(
    change: str, database: Database, store: ProfileStore
) -> None:
    await database.run(
        lambda connection: connection.execute(f"UPDATE profiles SET {change} WHERE name = 'plain'")
    )
    with pytest.raises(WhisperdError) as raised:
        await store.load()
    assert raised.value.code == "store.damaged"
