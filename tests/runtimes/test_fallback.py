"""Which variant is used when the best one fails, which failures are remembered, and what is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whisperd.hardware import Hardware
from whisperd.natives import Bundle
from whisperd.plugins import Backend, Variant
from whisperd.progress import ignore_progress
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.fallback import (
    PASSING_S,
    FailedVariant,
    VariantFailures,
    fallback_note,
    first_failure,
    is_fault_of_variant,
    rules_out,
)
from whisperd.runtimes.prepare import Prepared, fitting_variants
from whisperd.runtimes.preset import RuntimeChanges, RuntimePreset, new_preset
from whisperd.runtimes.provisioner import Provisioner
from whisperd.settings import RuntimeSettings

pytestmark = pytest.mark.anyio

MODEL = "tiny.en"


def variant(name: str, priority: int, device: str = "cpu", lock: str | None = "a lock") -> Variant:
    return Variant(name=name, lock=lock, device=device, priority=priority, compute_types=("int8",))


CUDA12 = variant("x-cuda12", 60, "cuda")
CUDA11 = variant("x-cuda11", 50, "cuda")
CPU = variant("x-cpu", 25)
GENERIC = variant("x-generic", 5)
REMOTE = variant("x-remote", 1, lock=None)
ALL = (CUDA12, CUDA11, CPU, GENERIC)
BACKEND = Backend(name="x", engine="x:load", variants=ALL)


def an_error(code: str, **data: Any) -> WhisperdError:
    return WhisperdError(code, f"It broke with {code}.", f"Mend {code}.", data)


def failed(one: Variant, code: str = "cuda.not_available", **data: Any) -> FailedVariant:
    return FailedVariant(one, an_error(code, **data))


# Rules


@pytest.mark.parametrize(
    ("code", "device", "is_its_fault"),
    [
        ("cuda.not_available", "cuda", True),
        ("cuda.driver_too_old", "cuda", True),
        ("library.missing", "cpu", True),
        ("library.wrong_architecture", "cpu", True),
        ("native.broken", "cpu", True),
        ("memory.gpu_not_enough", "cuda", True),
        ("model.load_failed", "cuda", True),  # not every message of a GPU library is known
        ("model.load_failed", "cpu", False),
        ("memory.not_enough", "cpu", False),
        ("worker.not_started", "cpu", False),
    ],
)
def test_failures_that_another_variant_may_avoid(code: str, device: str, is_its_fault: bool) -> None:
    assert is_fault_of_variant(an_error(code), variant("x", 1, device)) == is_its_fault


@pytest.mark.parametrize(
    ("how", "is_its_fault"), [("signal SIGSEGV", True), ("exit status 1", True), ("signal SIGKILL", False)]
)
def test_a_killed_worker_is_not_the_variants_fault(how: str, is_its_fault: bool) -> None:
    assert is_fault_of_variant(an_error("worker.died", how=how), CPU) == is_its_fault


@pytest.mark.parametrize(
    ("failure", "other", "is_ruled_out"),
    [
        (failed(CUDA12, "library.missing"), CUDA12, True),
        (failed(CUDA12, "cuda.not_available"), CUDA11, True),
        (failed(CUDA12, "cuda.not_available"), CPU, False),
        (
            failed(CUDA12, "cuda.not_available", said="no kernel image is available for execution"),
            CUDA11,
            False,
        ),
        (failed(CUDA12, "cuda.driver_too_old", said="the provided PTX was compiled with x"), CUDA11, False),
        (failed(CUDA12, "memory.gpu_not_enough"), CUDA11, True),
        (failed(CUDA12, "memory.gpu_not_enough"), CPU, False),
        (failed(CUDA12, "library.missing"), CUDA11, False),
        (failed(CPU, "worker.died"), GENERIC, False),
    ],
)
def test_which_other_variants_a_failure_rules_out(
    failure: FailedVariant, other: Variant, is_ruled_out: bool
) -> None:
    assert rules_out(failure, other) == is_ruled_out


def test_the_note_and_the_error() -> None:
    assert fallback_note(CPU, ()) is None
    assert fallback_note(CPU, [failed(CUDA12), failed(CUDA11, "library.missing")]) == (
        "Running as x-cpu, the next best variant. x-cuda12 failed: It broke with cuda.not_available. "
        "x-cuda11 failed: It broke with library.missing. Mend cuda.not_available."
    )
    assert first_failure([failed(CUDA12)]).data == {}
    error = first_failure([failed(CUDA12), failed(CPU, "disk.full")])
    assert error.code == "cuda.not_available"
    assert error.data == {"variants": {"x-cuda12": "cuda.not_available", "x-cpu": "disk.full"}}


# Remembered failures


class Surroundings:
    """A clock, and the state that variants depend on."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.stamp = "as it is"

    async def stamp_of(self, _: Variant) -> str:
        return self.stamp

    def failures(self) -> VariantFailures:
        return VariantFailures(self.stamp_of, lambda: self.now_s)


async def test_a_failure_is_remembered_for_its_model_and_variant() -> None:
    failures = Surroundings().failures()
    await failures.note(MODEL, [failed(CUDA12)])
    found = await failures.find(MODEL, CUDA12)
    assert found is not None and found.error.code == "cuda.not_available"
    assert await failures.find(MODEL, CUDA11) is None
    assert await failures.find("base", CUDA12) is None


async def test_a_failure_is_remembered_until_something_changes() -> None:
    around = Surroundings()
    failures = around.failures()
    await failures.note(MODEL, [failed(CUDA12)])
    around.now_s += 1e6
    assert await failures.find(MODEL, CUDA12)
    around.stamp = "a new driver"
    assert await failures.find(MODEL, CUDA12) is None
    around.stamp = "as it is"
    assert await failures.find(MODEL, CUDA12) is None, "the failure stays forgotten"


async def test_a_failure_is_remembered_until_a_retry_is_requested() -> None:
    failures = Surroundings().failures()
    await failures.note(MODEL, [failed(CUDA12)])
    await failures.note("base", [failed(CUDA12)])
    failures.forget(MODEL)
    assert await failures.find(MODEL, CUDA12) is None
    assert await failures.find("base", CUDA12) is not None


@pytest.mark.parametrize("code", ["network.unreachable", "disk.full", "memory.gpu_not_enough"])
async def test_transient_failures_are_retried_after_a_while(code: str) -> None:
    around = Surroundings()
    failures = around.failures()
    await failures.note(MODEL, [failed(CUDA12, code)])
    around.now_s += PASSING_S - 1
    assert await failures.find(MODEL, CUDA12)
    around.now_s += 1
    assert await failures.find(MODEL, CUDA12) is None


# Preparing


class Natives:
    """A store of bundles, some of which fail to install."""

    def __init__(self, *installed: str, **errors: str) -> None:
        self.installed = set(installed)
        self.errors = {name.replace("_", "-"): code for name, code in errors.items()}
        self.asked: list[str] = []

    def has_to_be_built(self, _: Bundle) -> bool:
        return False

    def find(self, bundle: Bundle) -> Any:
        return _Path(bundle.name) if bundle.name in self.installed else None

    async def install(self, bundle: Bundle, on_progress: Any) -> Any:
        self.asked.append(bundle.name)
        if code := self.errors.get(bundle.name):
            raise an_error(code)
        self.installed.add(bundle.name)
        return _Path(bundle.name)


class _Path:
    def __init__(self, name: str) -> None:
        self.path = Path("/bundles", name)
        self.facts = None


class Models:
    """A store that has every model."""

    def __init__(self) -> None:
        self.pulled: list[str] = []

    async def pull(self, name: str, on_progress: Any) -> Any:
        self.pulled.append(name)
        return _Path(name)

    async def facts(self, _: str) -> None: ...


def preset(**fields: Any) -> RuntimePreset:
    return new_preset(RuntimeChanges(name="mine", model=MODEL, **fields), RuntimeSettings(), check=False)


class Here:
    """A computer and an adviser that know only the usable variants, without measurements."""

    def __init__(self, usable: list[tuple[Backend, Variant]]) -> None:
        self.usable = usable

    async def usable_variants(self, _: RuntimePreset) -> list[tuple[Backend, Variant]]:
        return self.usable

    async def hardware(self) -> Hardware:
        return Hardware()

    async def never_fitting(self, *_: object) -> list[FailedVariant]:
        return []

    async def ranked(self, _: RuntimePreset, usable: Any) -> Any:
        return usable

    async def tuning(self, *_: object) -> None: ...


def provisioner_with(natives: Any, usable: list[tuple[Backend, Variant]]) -> Provisioner:
    here: Any = Here(usable)
    models: Any = Models()
    return Provisioner(models, natives, here, here, here, ignore_progress, ignore_progress)


Ask = Callable[..., Any]


@pytest.fixture
def ask() -> Ask:
    async def ask(
        natives: Natives,
        *variants: Variant,
        failures: VariantFailures | None = None,
        tried: tuple[FailedVariant, ...] = (),
        **fields: Any,
    ) -> Prepared:
        usable = [(BACKEND, one) for one in variants or ALL]
        provisioner = provisioner_with(natives, usable)
        provisioner.failures = failures or Surroundings().failures()
        return await provisioner.prepare(preset(**fields), ignore_progress, tried)

    return ask


def names(passed_over: tuple[FailedVariant, ...]) -> list[str]:
    return [one.variant.name for one in passed_over]


async def test_the_best_variant_is_used(ask: Ask) -> None:
    natives = Natives()
    prepared = await ask(natives)
    assert (prepared.variant, prepared.passed_over, natives.asked) == (CUDA12, (), ["x-cuda12"])
    assert prepared.has_others


@pytest.mark.parametrize(
    "code", ["native.hash_mismatch", "native.install_failed", "disk.full", "native.not_found"]
)
async def test_the_next_best_is_used_if_a_bundle_cannot_be_installed(ask: Ask, code: str) -> None:
    natives = Natives(x_cuda12=code, x_cuda11=code)
    prepared = await ask(natives)
    assert prepared.variant is CPU and prepared.bundle_path == Path("/bundles/x-cpu")
    assert names(prepared.passed_over) == ["x-cuda12", "x-cuda11"]
    assert natives.asked == ["x-cuda12", "x-cuda11", "x-cpu"]


@pytest.mark.parametrize("code", ["network.unreachable", "native.offline", "native.not_writable"])
async def test_if_nothing_can_be_installed_only_installed_variants_are_tried(ask: Ask, code: str) -> None:
    natives = Natives("x-generic", x_cuda12=code)
    assert (await ask(natives)).variant is GENERIC
    assert natives.asked == ["x-cuda12", "x-generic"]
    assert (await ask(Natives(x_cuda12=code), CUDA12, CUDA11, REMOTE)).variant is REMOTE


async def test_if_every_variant_fails_the_error_of_the_best_is_raised(ask: Ask) -> None:
    natives = Natives(
        x_cuda12="native.hash_mismatch", x_cuda11="disk.full", x_cpu="disk.full", x_generic="disk.full"
    )
    with pytest.raises(WhisperdError) as raised:
        await ask(natives)
    assert raised.value.code == "native.hash_mismatch"
    assert list(raised.value.data["variants"]) == ["x-cuda12", "x-cuda11", "x-cpu", "x-generic"]


async def test_a_requested_device_is_not_replaced(ask: Ask) -> None:
    with pytest.raises(WhisperdError) as raised:
        await ask(Natives(x_cuda12="native.hash_mismatch", x_cuda11="disk.full"), device="cuda")
    assert raised.value.code == "native.hash_mismatch"


async def test_a_variant_that_failed_in_this_load_is_not_retried(ask: Ask) -> None:
    prepared = await ask(Natives(), tried=(failed(CUDA12, "library.missing"),))
    assert (prepared.variant, names(prepared.passed_over)) == (CUDA11, ["x-cuda12"])
    prepared = await ask(Natives(), tried=(failed(CUDA12, "cuda.not_available"),))
    assert (prepared.variant, names(prepared.passed_over)) == (CPU, ["x-cuda12"])
    prepared = await ask(Natives(), CUDA12, CPU, tried=(failed(CUDA12),))
    assert not prepared.has_others


async def test_a_variant_that_failed_before_is_skipped(ask: Ask) -> None:
    failures = Surroundings().failures()
    first, second = Natives(x_cuda12="native.hash_mismatch"), Natives()
    assert (await ask(first, failures=failures)).variant is CUDA11
    prepared = await ask(second, failures=failures)
    assert (prepared.variant, second.asked) == (CUDA11, ["x-cuda11"])
    assert names(prepared.passed_over) == ["x-cuda12"], "the failure is reported each time"


async def test_a_variant_that_failed_before_is_retried_if_all_others_fail(ask: Ask) -> None:
    failures = Surroundings().failures()
    await failures.note(MODEL, [failed(CUDA12, "library.missing"), failed(CPU, "worker.died")])
    natives = Natives(x_cuda11="disk.full", x_generic="disk.full")
    prepared = await ask(natives, failures=failures)
    assert natives.asked == ["x-cuda11", "x-generic", "x-cuda12"]
    assert (prepared.variant, prepared.passed_over) == (CUDA12, ())


async def test_a_requested_variant_is_tried_each_time(ask: Ask) -> None:
    failures = Surroundings().failures()
    await failures.note(MODEL, [failed(CUDA12)])
    prepared = await ask(Natives(), CUDA12, CPU, failures=failures, device="cuda")
    assert prepared.variant is CUDA12


async def test_a_variant_that_failed_before_is_not_chosen() -> None:
    provisioner = provisioner_with(Natives(), [(BACKEND, one) for one in ALL])
    provisioner.failures = Surroundings().failures()
    assert (await provisioner.choose(preset()))[1] is CUDA12
    await provisioner.failures.note(MODEL, [failed(CUDA12)])
    assert (await provisioner.choose(preset()))[1] is CPU
    assert (await provisioner.choose(preset(device="cuda")))[1] is CUDA12


async def test_variants_ruled_out_by_an_earlier_failure_come_last(ask: Ask) -> None:
    failures = Surroundings().failures()
    await failures.note(MODEL, [failed(CUDA12, "cuda.not_available")])
    natives = Natives()
    assert (await ask(natives, failures=failures)).variant is CPU
    assert (await ask(natives, failures=failures, device="cuda")).variant is CUDA12
    assert natives.asked == ["x-cpu", "x-cuda12"], "no second bundle is downloaded for the GPU that failed"


async def test_a_failure_of_all_variants_is_not_remembered(ask: Ask) -> None:
    failures = Surroundings().failures()
    with pytest.raises(WhisperdError):
        await ask(Natives(x_cuda12="disk.full", x_cpu="disk.full"), CUDA12, CPU, failures=failures)
    assert (await ask(Natives(), CUDA12, CPU, failures=failures)).variant is CUDA12


def test_without_a_usable_variant_the_error_names_the_available_ones() -> None:
    with pytest.raises(WhisperdError) as raised:
        fitting_variants(preset(device="cuda"), [(BACKEND, CPU)])
    assert raised.value.code == "backend.not_usable" and "x-cpu" in raised.value.fix
