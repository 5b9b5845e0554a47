"""Measurements decide what a preset leaves open, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from whisperd.calibration import Calibrator, Circumstances, Idle
from whisperd.calibration.calibrator import LEAST_BUDGET_S, MOST_BUDGET_S, budget_s, patience_s
from whisperd.calibration.values import FULL_MARGIN_S, Calibration, Candidate, Setting, Trial
from whisperd.plugins import Backend, Variant
from whisperd.runtimes.prepare import Prepared, Tuning, load_params
from whisperd.runtimes.preset import RuntimePreset
from whisperd.runtimes.runtime import Runtime

pytestmark = pytest.mark.anyio

OLD = Variant(name="old-cpu", lock=None, device="cpu", priority=2, compute_types=("int8", "float32"))
NEW = Variant(name="new-cpu", lock=None, device="cpu", priority=1, compute_types=("int8",))
BAD = Variant(name="bad-cpu", lock=None, device="cpu", priority=3, compute_types=("int8",))
USABLE = [
    (Backend("bad", "", (BAD,)), BAD),
    (Backend("old", "", (OLD,)), OLD),
    (Backend("new", "", (NEW,)), NEW),
]


def setting(variant: str, **changes: Any) -> Setting:
    usual = Setting(
        variant=variant, compute_type="int8", replicas=2, cpu_threads=1, batch_size=4, context_margin_s=2.0
    )
    return msgspec.structs.replace(usual, **changes)


def trial(at: Setting, speed: float | None) -> Trial:
    if speed is None:
        return Trial(setting=at, outcome="failed", speeds=(), problem={})
    return Trial(setting=at, outcome="measured", speeds=(speed,), errors=0, words=80)


FOUND = Calibration(
    model="base",
    circumstances=Circumstances(
        processor=None, cores=2, gpus=(), driver=None, beam_size=5, versions={}, variants={}
    ),
    fingerprint="here",
    time="",
    elapsed_s=1,
    is_complete=True,
    candidates=tuple(
        Candidate(start=setting(name), shapes=(), batch_sizes=(), margins_s=())
        for name in ("bad-cpu", "old-cpu", "new-cpu")
    ),
    trials=(
        trial(setting("bad-cpu", context_margin_s=FULL_MARGIN_S), None),
        trial(setting("old-cpu", context_margin_s=FULL_MARGIN_S), 5.0),
        trial(setting("old-cpu"), 10.0),
        trial(setting("old-cpu", replicas=1, cpu_threads=2), 9.0),
        trial(setting("new-cpu", batch_size=8, context_margin_s=1.0), 20.0),
        trial(setting("new-cpu", replicas=1, cpu_threads=2), 12.0),
    ),
)


class FakeTable:
    def find(self, model: str, fingerprint: str) -> Calibration | None:
        return FOUND if (model, fingerprint) == ("base", "here") else None


class FakeSurroundings:
    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    async def circumstances(self) -> FakeSurroundings:
        return self


def calibrator(fingerprint: str = "here") -> Calibrator:
    return Calibrator(FakeTable(), Idle(lambda: False), FakeSurroundings(fingerprint))  # type: ignore[arg-type]


def preset(**fields: Any) -> RuntimePreset:
    return RuntimePreset(
        **{"id": "1", "name": "one", "model": "base", "created": "", "changed": "", **fields}
    )


async def ranked(**fields: Any) -> list[str]:
    return [variant.name for _, variant in await calibrator().ranked(preset(**fields), USABLE)]


async def test_the_fastest_comes_first_and_a_broken_variant_last() -> None:
    assert await ranked() == ["new-cpu", "old-cpu", "bad-cpu"]


async def test_without_measurements_the_order_is_unchanged() -> None:
    assert await ranked(model="small") == ["bad-cpu", "old-cpu", "new-cpu"]
    elsewhere = await calibrator("there").ranked(preset(), USABLE)
    assert elsewhere == USABLE


@pytest.mark.parametrize(
    "fields, first",
    [
        ({"backend": "old"}, "old-cpu"),
        ({"workers": 1}, "new-cpu"),
        ({"cpu_threads": 2}, "new-cpu"),
        ({"workers": 2, "backend": "old"}, "old-cpu"),
    ],
)
async def test_the_fastest_setting_that_a_preset_allows_decides(fields: dict[str, Any], first: str) -> None:
    assert (await ranked(**fields))[0] == first


async def tuning(variant: Variant, **fields: Any) -> Tuning | None:
    return await calibrator().tuning(preset(**fields), Backend("old", "", (variant,)), variant)


async def test_explicit_values_are_not_tuned() -> None:
    assert await tuning(NEW) == Tuning(2, 1, 8, 1.0)
    assert await tuning(NEW, workers=1) == Tuning(1, 2, 4, 2.0)
    assert await tuning(NEW, workers=7) is None, "seven workers were not measured"
    assert await tuning(OLD, compute_type="float32") is None
    assert await tuning(BAD) is None
    assert await tuning(NEW, device_index=(0,)) is None, "the variant has no GPU"


def test_a_worker_is_loaded_with_the_measured_setting() -> None:
    tuned = Tuning(workers=1, cpu_threads=2, batch_size=8, context_margin_s=1.0)
    prepared = Prepared(USABLE[1][0], OLD, None, Path("model"), tuned)
    params = load_params(preset(), prepared)
    assert (params.replicas, params.cpu_threads, params.context_margin_s) == (1, 2, 1.0)
    explicit = load_params(preset(workers=3, cpu_threads=4), prepared)
    assert (explicit.replicas, explicit.cpu_threads) == (3, 4)


@pytest.mark.parametrize(
    "fields, size",
    [({}, 8), ({"batch_size": 2}, 2), ({"batched": False}, 1), ({"batch_size": 2, "batched": False}, 1)],
)
def test_the_batch_size_is_tuned_unless_it_was_changed(fields: dict[str, Any], size: int) -> None:
    prepared = Prepared(USABLE[1][0], OLD, None, Path("model"), Tuning(1, 2, 8, 1.0))
    assert Runtime(preset(**fields), prepared=prepared).batch_size == size


def test_slow_computers_and_large_models_get_more_time() -> None:
    assert budget_s([]) == MOST_BUDGET_S
    first = trial(setting("old-cpu"), 5.0)
    assert budget_s([msgspec.structs.replace(first, cost_s=2.0)]) == LEAST_BUDGET_S
    assert LEAST_BUDGET_S < budget_s([msgspec.structs.replace(first, cost_s=20.0)]) < MOST_BUDGET_S
    assert patience_s(39e6) < patience_s(1.5e9)
