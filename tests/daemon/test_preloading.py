"""The default runtime is preloaded only if nothing must be downloaded or converted for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from whisperd.audio import media_lock
from whisperd.daemon.preloading import preload
from whisperd.models import InstalledModel
from whisperd.natives import Bundle
from whisperd.plugins import Backend, ModelFacts, ModelFormat, Variant
from whisperd.progress import ignore_progress
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.preset import RuntimePreset
from whisperd.runtimes.provisioner import Provisioner

pytestmark = pytest.mark.anyio

FACTS = ModelFacts(format="toy", precision="q5", compute_type="int8", parameters=1_000_000, language_count=1)
VARIANT = Variant(
    # Any lock: only its presence matters.
    name="toy-cpu",
    lock=media_lock(),
    device="cpu",
    priority=1,
    compute_types=("int8",),
)
PLAIN = Backend(name="toy", engine="", variants=(VARIANT,))
CONVERTING = Backend(
    name="toy", engine="", variants=(VARIANT,), model_format=ModelFormat(name="toy", convert="")
)

USEFUL = replace(CONVERTING, model_format=ModelFormat(name="toy", convert="", replaces="model.bin"))


class Service:
    """Stands in for the daemon's service: lacks some items, and records whether a load began."""

    def __init__(self, backend: Backend, *missing: str, facts: ModelFacts | None = None) -> None:
        self.missing = missing
        self.backend = backend
        self.model_facts = facts
        self.began = False
        self.natives: Any = SimpleNamespace(find=self.bundle, has_to_be_built=lambda _: False)
        self.models: Any = SimpleNamespace(find=self.model, facts=self.facts, converted=self.converted)
        computer: Any = SimpleNamespace(usable_variants=self.variants)
        calibrator: Any = SimpleNamespace(ranked=self.ranked, tuning=self.tuning)
        self.provisioner = Provisioner(
            self.models, self.natives, computer, Mock(), calibrator, ignore_progress, ignore_progress
        )
        preset = RuntimePreset(id="1", name="one", model="tiny", created="", changed="")
        self.runtimes = SimpleNamespace(default=SimpleNamespace(preset=preset), begin_to_load=self.begin)

    def bundle(self, bundle: Bundle) -> object | None:
        return None if bundle.name in self.missing else object()

    async def model(self, name: str) -> InstalledModel | None:
        if "model" in self.missing:
            return None
        return InstalledModel(
            name=name,
            repo=None,
            size=1,
            memory=None,
            languages=None,
            installed=True,
            verified=True,
            path="/model",
            source="a test",
            facts=self.model_facts,
        )

    async def facts(self, _: str) -> None:
        return None

    async def converted(self, name: str, format: ModelFormat, precision: str) -> Path | None:
        assert (name, format.name, precision) == ("tiny", "toy", "int8")
        return None if "converted" in self.missing else Path("/converted")

    async def variants(self, _: RuntimePreset) -> list[tuple[Backend, Variant]]:
        if "backend" in self.missing:
            raise WhisperdError("backend.none", "There is none.", "Install one.")
        return [(self.backend, VARIANT)]

    async def ranked(self, _: RuntimePreset, usable: Any) -> Any:
        return usable

    async def tuning(self, *_: object) -> None: ...

    def begin(self, _: object) -> None:
        self.began = True


@pytest.mark.parametrize("missing", ["media", "toy-cpu", "model", "converted"])
async def test_nothing_is_downloaded_or_converted_to_preload(missing: str) -> None:
    service = Service(CONVERTING, missing)
    await preload(service)  # type: ignore[arg-type]
    assert not service.began


@pytest.mark.parametrize(
    "service",
    [
        Service(CONVERTING),
        Service(PLAIN, "converted"),
        Service(USEFUL, "converted"),
        Service(CONVERTING, "converted", facts=FACTS),
    ],
    ids=["converted", "needs no conversion", "can load unconverted", "native format"],
)
async def test_a_complete_default_runtime_is_preloaded(service: Service) -> None:
    await preload(service)  # type: ignore[arg-type]
    assert service.began


async def test_a_plugin_failing_on_a_model_does_not_stop_the_daemon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(PLAIN)

    async def facts(_: str) -> None:
        raise KeyError("general.architecture")

    service.models.facts = facts
    await preload(service)  # type: ignore[arg-type]
    assert not service.began and "general.architecture" in caplog.text


async def test_a_runtime_without_a_backend_is_loaded_to_report_its_error() -> None:
    service = Service(CONVERTING, "backend")
    await preload(service)  # type: ignore[arg-type]
    assert service.began
