"""The model files that a worker is given: the original, or a conversion that may be optional."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from whisperd.plugins import Backend, ModelFormat, Variant
from whisperd.progress import ignore_progress
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.prepare import Prepared, load_params, prepare_variant
from whisperd.runtimes.preset import RuntimePreset

pytestmark = pytest.mark.anyio

MODEL = SimpleNamespace(name="tiny", path="/model", facts=None)
NEEDED = ModelFormat(name="toy", convert="toy:convert")
USEFUL = replace(NEEDED, replaces="model.bin")
FAILURE = WhisperdError("disk.full", "There is no room.", "Make some.")


async def prepared_by(
    format: ModelFormat, converts: tuple[str, ...] | None = None, error: WhisperdError | None = None
) -> tuple[str, bool]:
    """Return the path given to a backend with this format, and whether a conversion is missing."""

    async def pull(*_: Any) -> Any:
        return MODEL

    async def convert(*_: Any) -> Path:
        if error is not None:
            raise error
        return Path("/converted")

    variant = Variant(
        name="toy-cpu", lock=None, device="cpu", priority=1, compute_types=("int8",), converts=converts
    )
    backend = Backend(name="toy", engine="toy:load", variants=(variant,), model_format=format)
    models: Any = SimpleNamespace(pull=pull, convert=convert)
    natives: Any = SimpleNamespace()
    preset = RuntimePreset(id="1", name="one", model="tiny", created="", changed="")
    prepared = await prepare_variant(
        preset, backend, variant, natives, models, ignore_progress, ignore_progress
    )
    return prepared.model_path.as_posix(), prepared.is_unconverted


@pytest.mark.parametrize("format", [NEEDED, USEFUL])
async def test_a_model_is_converted_if_the_variant_wants_it(format: ModelFormat) -> None:
    assert await prepared_by(format) == ("/converted", False)
    assert await prepared_by(format, converts=("int8",)) == ("/converted", False)
    assert await prepared_by(format, converts=()) == ("/model", False)


async def test_a_failed_optional_conversion_does_not_prevent_loading() -> None:
    assert await prepared_by(USEFUL, error=FAILURE) == ("/model", True)
    with pytest.raises(WhisperdError) as caught:
        await prepared_by(NEEDED, error=FAILURE)
    assert caught.value.code == "disk.full"


@pytest.mark.parametrize(("workers", "replicas"), [(0, 64), (256, 64), (3, 3)])
def test_no_more_replicas_are_loaded_than_a_worker_uses(
    monkeypatch: pytest.MonkeyPatch, workers: int, replicas: int
) -> None:
    monkeypatch.setattr("whisperd.runtimes.prepare.usable_cores", lambda: 96)
    variant = Variant(name="toy-cpu", lock=None, device="cpu", priority=1, compute_types=("int8",))
    prepared = Prepared(Backend(name="toy", engine="", variants=(variant,)), variant, None, Path("/model"))
    preset = RuntimePreset(id="1", name="one", model="tiny", workers=workers, created="", changed="")
    assert load_params(preset, prepared).replicas == replicas
