"""A user's settings of a runtime, checked against what this computer and the model support."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from whisperd.plugins import ModelFacts
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import RuntimeChanges
from whisperd.runtimes.editing import Editor
from whisperd.runtimes.preset import Capabilities, RuntimePreset
from whisperd.settings import RuntimeSettings

pytestmark = pytest.mark.anyio

FACTS = ModelFacts(format="ggml", precision="q5_0", compute_type="int8", parameters=10**8, language_count=99)
CPU_COUNT = 4
OTHER = RuntimePreset(id="aaaaaaaa", name="other", model="toy", created="", changed="")


class FakeEditor:
    """An editor on a computer with few cores that knows one file; records queries of capabilities."""

    def __init__(self) -> None:
        self.capabilities_of: list[RuntimePreset] = []
        provisioner: Any = SimpleNamespace(
            models=SimpleNamespace(describe=self.describe, facts=self.facts),
            computer=SimpleNamespace(capabilities=self.capabilities),
        )
        settings = RuntimeSettings(compute_type="int8_float32", batch_size=7)
        self.editor = Editor(provisioner, lambda: settings)

    async def capabilities(self, preset: RuntimePreset) -> Capabilities:
        self.capabilities_of.append(preset)
        backends = {"toy": {"cpu": ("int8", "int8_float32")}, "whispercpp": {"cpu": ("int8",)}}
        return Capabilities(backends=backends, cpu_count=CPU_COUNT)

    async def describe(self, name: str) -> Any:
        if name == "unknown":
            raise WhisperdError("model.unknown", "There is none.", "Name another.")
        return SimpleNamespace(name=name.rstrip("/"), facts=await self.facts(name))

    async def facts(self, model: str) -> ModelFacts | None:
        return FACTS if model.endswith(".bin") else None

    async def new(self, **fields: Any) -> RuntimePreset:
        return await self.editor.new(RuntimeChanges(**{"name": "mine", "model": "toy", **fields}), [OTHER])

    async def changed(self, preset: RuntimePreset, **changes: Any) -> RuntimePreset:
        return await self.editor.changed(preset, RuntimeChanges(**changes), [OTHER, preset])


@pytest.fixture
def asked() -> FakeEditor:
    return FakeEditor()


async def test_model_names_are_normalised(asked: FakeEditor) -> None:
    preset = await asked.new(model="toy/")
    assert (preset.model, preset.compute_type, preset.batch_size) == ("toy", "int8_float32", 7)
    assert (await asked.changed(preset, model="other/")).model == "other"


async def test_fields_omitted_for_a_file_are_not_taken_from_the_settings(asked: FakeEditor) -> None:
    preset = await asked.new(model="/m.bin")
    assert (preset.backend, preset.compute_type) == ("auto", "auto")
    assert [one.backend for one in asked.capabilities_of] == ["whispercpp"], (
        "only the backend that loads the file is checked"
    )
    changed = await asked.changed(await asked.new(), model="/m.bin")
    assert changed.compute_type == "auto"
    assert asked.editor.unsaved("/m.bin", FACTS).compute_type == "auto"
    assert asked.editor.unsaved("toy", None).compute_type == "int8_float32"


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("model.unknown", {"model": "unknown"}),
        ("runtime.invalid", {"backend": "another"}),
        ("runtime.invalid", {"cpu_threads": CPU_COUNT + 1}),
        ("runtime.invalid", {"model": "/m.bin", "backend": "toy"}),
        ("runtime.exists", {"name": "other"}),
        ("runtime.exists", {"name": "aaaaaaaa"}),
    ],
)
async def test_invalid_settings_are_refused(asked: FakeEditor, code: str, fields: dict[str, Any]) -> None:
    preset = await asked.new()
    for attempt in (asked.new(**fields), asked.changed(preset, **fields)):
        with pytest.raises(WhisperdError) as raised:
            await attempt
        assert raised.value.code == code


async def test_names_and_ids_are_unique(asked: FakeEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = await asked.new()
    assert (await asked.changed(preset, name=preset.id)).name == preset.id, (
        "a runtime may be named after its own id"
    )
    assert (await asked.new(name="Other")).name == "Other", "names differ in case"
    monkeypatch.setattr("secrets.token_hex", lambda _: "other")
    with pytest.raises(WhisperdError, match="other"):
        await asked.new()


async def test_capabilities_are_checked_only_for_changes_that_reload(asked: FakeEditor) -> None:
    preset = await asked.new()
    asked.capabilities_of.clear()
    assert await asked.changed(preset, name="mine") is preset
    assert (await asked.changed(preset, name="another", keep_alive=0)).version == 2
    assert not asked.capabilities_of
    after = await asked.changed(preset, workers=2)
    assert asked.capabilities_of == [after]
