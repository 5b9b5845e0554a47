"""The choice of the model with which a bundle is tried before it is used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from whisperd.daemon.trials import _smallest_model, try_bundle
from whisperd.installed_plugins import find_variant
from whisperd.models import InstalledModel
from whisperd.plugins import Backend, ModelFacts, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.computer import JudgedVariant
from whisperd.worker.protocol import LoadParams

pytestmark = pytest.mark.anyio

FACTS = ModelFacts(format="ggml", precision="q5_0", compute_type="int8", parameters=10**8, language_count=99)


def model(name: str, size: int | None, **fields: Any) -> InstalledModel:
    usual: dict[str, Any] = {
        "repo": None, "memory": None, "languages": None, "installed": True, "verified": True, "path": name,
        "source": "the hub",
    }  # fmt: skip
    return InstalledModel(name=name, size=size, **{**usual, **fields})


def service(*stored: InstalledModel, in_place: InstalledModel | None = None) -> Any:
    found = {one.name: one for one in (*stored, in_place) if one is not None}

    async def list_() -> list[InstalledModel]:
        return list(stored)

    async def find(name: str) -> InstalledModel:
        if name not in found:
            raise WhisperdError("model.unknown", f"There is no {name}.", "Check its spelling.")
        return found[name]

    names = [in_place.name if in_place else "gone"]
    runtimes = [SimpleNamespace(preset=SimpleNamespace(model=name)) for name in names]
    return SimpleNamespace(
        models=SimpleNamespace(list=list_, find=find), runtimes=SimpleNamespace(all=lambda: runtimes)
    )


def backend(variant: str) -> Backend:
    found = find_variant(variant)
    assert found is not None
    return found[0]


async def test_the_smallest_model_with_english_is_chosen() -> None:
    here = service(model("small", 200), model("base", 100), model("german", 10, languages=("de",)))
    found = await _smallest_model(here, backend("ctranslate2-cpu"))
    assert found is not None and found.name == "base"
    assert await _smallest_model(service(), backend("ctranslate2-cpu")) is None


async def test_a_missing_model_of_a_runtime_is_skipped() -> None:
    here = service(model("base", 100))
    assert [one.preset.model for one in here.runtimes.all()] == ["gone"]
    found = await _smallest_model(here, backend("ctranslate2-cpu"))
    assert found is not None and found.name == "base"


async def test_a_model_file_is_used_only_by_a_backend_that_loads_it() -> None:
    here = service(in_place=model("/mine.bin", None, facts=FACTS))
    found = await _smallest_model(here, backend("whispercpp-avx"))
    assert found is not None and found.name == "/mine.bin"
    assert await _smallest_model(here, backend("ctranslate2-cpu")) is None


async def test_the_trial_uses_a_compute_type_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Variant(name="toy-cuda", lock=None, device="cuda", priority=1, compute_types=("int8_float32",))
    asked: list[LoadParams] = []

    async def judged_variants() -> list[JudgedVariant]:
        return [JudgedVariant(Backend("toy", "", (cuda,)), cuda, None)]

    def open_worker(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments[2])
        raise WhisperdError("model.load_failed", "There is no model.", "Get one.")

    monkeypatch.setattr("whisperd.daemon.trials.open_worker", open_worker)
    here = service()
    here.computer = SimpleNamespace(judged_variants=judged_variants)
    await try_bundle(here, SimpleNamespace(name="toy-cuda", path=Path("/bundle")))  # type: ignore[arg-type]
    assert [params.compute_type for params in asked] == ["int8_float32"]
