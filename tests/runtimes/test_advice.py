"""Warnings and recommendations about a model before it is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from whisperd.hardware import Gpu, Memory
from whisperd.models import InstalledModel, ModelStore
from whisperd.plugins import Backend, ModelFacts, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.advice import Advisor
from whisperd.runtimes.preset import RuntimePreset

pytestmark = pytest.mark.anyio

GB = 10**9


class Computer:
    def __init__(self, *gpu_bytes: int) -> None:
        self.gpus = tuple(Gpu(index, "a GPU", size, size, (8, 0)) for index, size in enumerate(gpu_bytes))

    async def usable_gpus(self) -> tuple[Gpu, ...]:
        return self.gpus


def advisor(folder: Path, memory: int, *gpu_bytes: int, measured: dict[str, float] | None = None) -> Advisor:
    async def speeds() -> dict[str, float]:
        return measured or {}

    return Advisor(
        ModelStore(folder, sources=[]),
        Computer(*gpu_bytes),  # type: ignore[arg-type]
        speeds,
        lambda: Memory(total=memory, available=memory, source="a test"),
    )


def codes(warnings: Sequence[WhisperdError]) -> list[str]:
    return [warning.code for warning in warnings]


async def test_a_model_that_is_too_large_gets_a_warning(tmp_path: Path) -> None:
    (warning,) = await advisor(tmp_path, 2 * GB).warnings("large-v3")
    assert warning.code == "model.too_large"
    assert warning.data["download"] > 3 * GB
    assert warning.data["total"] == 2 * GB < warning.data["needed"]


@pytest.mark.parametrize("name", ["base", "Someone/model", "/a/folder"])
async def test_fitting_and_unknown_models_get_no_warning(tmp_path: Path, name: str) -> None:
    assert await advisor(tmp_path, 2 * GB).warnings(name) == []


async def test_installed_models_get_no_warning(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "large-v3.json").write_text(
        '{"name": "large-v3", "repo": null, "revision": null, "source": "a test", "files": []}'
    )
    assert await advisor(tmp_path, 2 * GB).warnings("large-v3") == []


@pytest.mark.parametrize(
    ("gpu_bytes", "device", "device_index", "is_too_large"),
    [
        ((), "auto", (), True),
        ((24 * GB,), "auto", (), False),
        ((24 * GB,), "cuda", (), False),
        ((24 * GB,), "cpu", (), True),
        ((24 * GB, 2 * GB), "cuda", (1,), True),
        ((24 * GB, 2 * GB), "cuda", (0,), False),
        ((2 * GB,), "auto", (), True),
    ],
)
async def test_the_memory_of_the_chosen_device_counts(
    tmp_path: Path, gpu_bytes: tuple[int, ...], device: str, device_index: tuple[int, ...], is_too_large: bool
) -> None:
    found = await advisor(tmp_path, 2 * GB, *gpu_bytes).warnings(
        "large-v3", device=device, device_index=device_index
    )
    assert codes(found) == ["model.too_large"] * is_too_large
    for warning in found:
        assert ("GPU" in warning.message) == (bool(gpu_bytes) and device != "cpu")


async def test_the_precision_affects_the_need(tmp_path: Path) -> None:
    small = advisor(tmp_path, 4 * GB)
    assert codes(await small.warnings("medium", compute_type="float32")) == ["model.too_large"]
    assert codes(await small.warnings("medium", compute_type="int8")) == []


async def test_measured_speeds_are_used(tmp_path: Path) -> None:
    fast = advisor(tmp_path, 16 * GB, measured={"base": 45.0})
    assert await fast.suitable() == "small"
    assert (await fast.recommend("en"))[0].name == "small.en"
    first = (await fast.recommend("de"))[0]
    assert (first.name, first.recommended, first.measured) == ("small", True, False)
    assert await advisor(tmp_path, 16 * GB).suitable() == "base"


def imported(folder: Path, **facts: Any) -> InstalledModel:
    """Return a folder of 3 GB, or a file, imported under its own name."""
    (folder / "mine").mkdir()
    with (folder / "mine" / "model.bin").open("wb") as file:
        file.truncate(3 * GB)
    return InstalledModel(
        name="mine",
        repo=None,
        size=3 * GB,
        memory=None,
        languages=("en",) if facts.get("language_count") == 1 else None,
        installed=True,
        verified=True,
        path=str(folder / "mine"),
        facts=ModelFacts(format="ggml", compute_type="float16", **facts) if facts else None,
        source="folder",
    )


@pytest.mark.parametrize(
    ("memory", "gpu_bytes", "largest"),
    [
        (2 * GB, (), "large-v3-turbo"),
        (8 * GB, (), None),
        (2 * GB, (24 * GB,), None),
        (8 * GB, (2 * GB,), "small"),
        (8 * GB, (2 * GB, 24 * GB), None),
        (8 * GB, (24 * GB, 2 * GB), None),
    ],
)
async def test_an_imported_folder_is_judged_by_its_size(
    tmp_path: Path, memory: int, gpu_bytes: tuple[int, ...], largest: str | None
) -> None:
    found = await advisor(tmp_path, memory, *gpu_bytes).warnings_of_imported(imported(tmp_path))
    assert [one.data["largest"] for one in found] == ([largest] if largest else [])
    for warning in found:
        assert warning.code == "model.too_large" and "The model mine needs about" in warning.message
        assert (warning.data["download"], warning.data["loadable"]) == (0, memory > 2 * GB)


@pytest.mark.parametrize(
    ("precision", "language_count", "largest"),
    [("f16", 99, "large-v3-turbo"), ("f16", 1, "large-v3-turbo"), ("q4_0", 99, None)],
)
async def test_an_imported_file_is_judged_by_its_facts(
    tmp_path: Path, precision: str, language_count: int, largest: str | None
) -> None:
    """On the processor, regardless of GPUs."""
    model = imported(tmp_path, precision=precision, parameters=769_000_000, language_count=language_count)
    found = await advisor(tmp_path, 2_200_000_000, 24 * GB).warnings_of_imported(model)
    assert [one.data["largest"] for one in found] == ([largest] if largest else [])


async def refused(
    folder: Path,
    memory: int,
    *gpu_bytes: int,
    model: str = "large-v3",
    device: str = "cpu",
    compute_type: str = "int8",
) -> str | None:
    """Return the error code that prevents loading a model with a variant, before it is downloaded."""
    preset = RuntimePreset(id="x", name="x", model=model, created="", changed="")
    variant = Variant("toy", None, device, 1, (compute_type,))
    failed = await advisor(folder, memory, *gpu_bytes).never_fitting(
        preset, [(Backend("toy", "", (variant,)), variant)]
    )
    for one in failed:
        assert one.variant is variant and one.error.fix
        assert one.error.data["needed"] > one.error.data["free"]
        return one.error.code
    return None


async def test_models_that_can_never_be_loaded_are_not_downloaded(tmp_path: Path) -> None:
    assert await refused(tmp_path, 2 * GB) == "memory.not_enough"
    assert await refused(tmp_path, 2 * GB, 24 * GB) == "memory.not_enough"  # on the processor nevertheless
    assert await refused(tmp_path, 64 * GB, 2 * GB, device="cuda") == "memory.gpu_not_enough"
    assert await refused(tmp_path, 6 * GB, compute_type="float32") == "memory.not_enough"


@pytest.mark.parametrize(
    ("memory", "gpu_bytes", "device", "is_loadable"),
    [
        (2 * GB, (), "auto", False),
        (6 * GB, (), "auto", True),
        (2 * GB, (2 * GB,), "auto", False),
        (64 * GB, (2 * GB,), "auto", True),  # on the processor
        (64 * GB, (2 * GB,), "cuda", False),
    ],
)
async def test_the_warning_tells_whether_loading_would_be_refused(
    tmp_path: Path, memory: int, gpu_bytes: tuple[int, ...], device: str, is_loadable: bool
) -> None:
    (warning,) = await advisor(tmp_path, memory, *gpu_bytes).warnings("large-v3", device=device)
    assert warning.data["loadable"] is is_loadable


async def test_models_that_may_fit_are_not_refused(tmp_path: Path) -> None:
    assert await refused(tmp_path, 8 * GB) is None
    assert await refused(tmp_path, 6 * GB) is None  # only a warning: other programs need memory as well
    assert await refused(tmp_path, 2 * GB, model="Someone/model") is None
    assert await refused(tmp_path, 64 * GB, 24 * GB, device="cuda") is None
