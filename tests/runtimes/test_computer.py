"""The variants that this computer can use, and when detection runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import msgspec
import pytest

from recorded_computers import computer as recorded
from whisperd.clock import now_rfc3339
from whisperd.hardware import Gpu, Gpus, Hardware
from whisperd.natives import Bundle
from whisperd.plugins import Backend, Needs, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import RuntimePreset
from whisperd.runtimes.computer import RENEWED_AFTER_S, Computer, judge
from whisperd.runtimes.prepare import fitting_variants

HASH = "0" * 64
LOCK = """
format = 1
main = "toy"

[[distributions]]
name = "toy"
version = "1.0"
wheels = [["{tag}", 1, 1, "{hash}"]]
"""
EVERYWHERE = LOCK.format(tag="py3-none-any", hash=HASH)
NOWHERE = LOCK.format(tag="cp39-cp39-win_amd64", hash=HASH)


def variant(name: str, priority: int, device: str = "cpu", **fields: Any) -> Variant:
    fields = {"lock": None, "compute_types": ("int8",), **fields}
    return Variant(name=name, device=device, priority=priority, **fields)


CUDA12 = variant("one-cuda12", 60, "cuda", needs=Needs(cuda=(12, 0)))
CUDA11 = variant("one-cuda11", 50, "cuda", needs=Needs(cuda=(11, 0)), lock=NOWHERE)
BLAS = variant("two-blas", 40, needs=Needs(blas=True, compiler=True), lock=EVERYWHERE, build={})
AVX = variant("two-avx", 30, needs=Needs(cpu_features=("avx",)))
CPU = variant("one-cpu", 20)
ONE = Backend("one", "", (CUDA12, CUDA11, CPU))
TWO = Backend("two", "", (BLAS, AVX))
ALL = [(ONE, CUDA12), (ONE, CUDA11), (TWO, BLAS), (TWO, AVX), (ONE, CPU)]


def preset(**fields: Any) -> RuntimePreset:
    now = now_rfc3339()
    return RuntimePreset(id="1", name="dictation", model="tiny", created=now, changed=now, **fields)


def problems(hardware: Hardware, **options: Any) -> dict[str, str | None]:
    return {one.variant.name: one.problem and one.problem.code for one in judge(ALL, hardware, **options)}


@dataclass
class FakeComputer:
    """A computer with controlled detection and clock."""

    hardware: Hardware
    now_s: float = 0.0
    detections: int = 0
    background: list[Callable[[], Awaitable[object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.computer = Computer(
            self._find_gpus,
            self._find_hardware,
            start_soon=self.background.append,
            now_s=lambda: self.now_s,
        )

    async def usable(self, **fields: Any) -> list[str]:
        return [one.name for _, one in await self.computer.usable_variants(preset(**fields))]

    async def refusal(self, **fields: Any) -> WhisperdError:
        with pytest.raises(WhisperdError) as raised:
            await self.computer.usable_variants(preset(**fields))
        return raised.value

    async def _find_gpus(self) -> Gpus:
        return self.hardware.gpus

    async def _find_hardware(self) -> Hardware:
        self.detections += 1
        await anyio.lowlevel.checkpoint()
        self.now_s += 1
        return self.hardware


@pytest.fixture
def announce(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Register these variants and no others."""

    def announce(*pairs: tuple[Backend, Variant]) -> None:
        monkeypatch.setattr("whisperd.runtimes.computer.variants", lambda: list(pairs))

    announce(*ALL)
    return announce


# Judging


def test_variants_usable_on_a_desktop() -> None:
    assert problems(recorded("intel_desktop")) == {
        "one-cuda12": "cuda.not_available",
        "one-cuda11": "cuda.not_available",
        "two-blas": None,
        "two-avx": None,
        "one-cpu": None,
    }


def test_missing_hardware_is_reported_before_a_missing_build() -> None:
    assert problems(recorded("nvidia_cuda12"))["one-cuda11"] == "native.unsupported"
    assert problems(recorded("intel_desktop"))["one-cuda11"] == "cuda.not_available"


def test_an_installed_build_needs_no_compiler() -> None:
    without_compiler = recorded("old_no_avx")
    assert problems(without_compiler)["two-blas"] == "variant.not_usable"
    asked: list[Bundle] = []
    installed = problems(without_compiler, is_installed=lambda bundle: not asked.append(bundle))
    assert installed["two-blas"] is None
    assert [bundle.name for bundle in asked] == ["two-blas"]


# Choosing for a preset

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("announce")
async def test_usable_variants_are_ordered() -> None:
    assert await FakeComputer(recorded("nvidia_cuda12")).usable() == ["one-cuda12", "two-avx", "one-cpu"]
    assert await FakeComputer(recorded("intel_desktop")).usable() == ["two-blas", "two-avx", "one-cpu"]
    assert await FakeComputer(recorded("old_no_avx")).usable() == ["one-cpu"]


@pytest.mark.usefixtures("announce")
async def test_a_preset_without_usable_variants_gets_the_reason() -> None:
    old = FakeComputer(recorded("old_no_avx"))
    assert (await old.refusal(backend="two")).code == "variant.not_usable"
    assert (await old.refusal(device="cuda")).code == "cuda.not_available"
    assert (await FakeComputer(recorded("nvidia_broken")).refusal(device="cuda")).data[
        "reason"
    ] == "version_mismatch"


async def test_the_reason_given_is_that_of_the_least_demanding_variant(
    announce: Callable[..., None],
) -> None:
    announce((ONE, CUDA12), (TWO, BLAS), (TWO, AVX))
    problem = await FakeComputer(recorded("old_no_avx")).refusal()
    assert "two-avx" in problem.message


async def test_for_gpus_the_reason_of_the_best_variant_is_given(announce: Callable[..., None]) -> None:
    announce((ONE, CUDA12), (ONE, CUDA11))
    problem = await FakeComputer(recorded("nvidia_old_driver")).refusal(device="cuda")
    assert problem.code == "cuda.driver_too_old"


async def test_variants_without_needs_require_no_detection(announce: Callable[..., None]) -> None:
    announce((ONE, CPU))
    looked = FakeComputer(recorded("intel_desktop"))
    assert await looked.usable() == ["one-cpu"]
    assert looked.detections == 0


OLD_GPU = Gpu(1, "GTX 1060", 6 * 10**9, 6 * 10**9, (6, 1))
FLOATS = variant("one-floats", 70, "cuda", compute_types=("float16", "int8_float16", "int8_float32"))


@pytest.mark.parametrize(
    ("index", "kinds"), [((), ("float16", "int8_float16", "int8_float32")), ((1,), ("int8_float32",))]
)
async def test_compute_types_are_limited_to_what_the_gpu_supports(
    announce: Callable[..., None], index: tuple[int, ...], kinds: tuple[str, ...]
) -> None:
    announce((ONE, FLOATS))
    hardware = recorded("nvidia_cuda12")
    gpus = replace(hardware.gpus, gpus=(hardware.gpus.gpus[0], OLD_GPU))
    computer = FakeComputer(msgspec.structs.replace(hardware, gpus=gpus)).computer
    ((_, usable),) = await computer.usable_variants(preset(device_index=index))
    assert usable.compute_types == kinds
    (judged,) = await computer.judged_variants()  # as calibration and trials use it: for the first GPU
    assert judged.variant.compute_types == ("float16", "int8_float16", "int8_float32")
    gpus = Gpus((replace(OLD_GPU, index=0),))
    (judged,) = await computer.judged_variants(gpus)
    assert judged.variant.compute_types == ("int8_float32",)


@pytest.mark.usefixtures("announce")
async def test_a_gpu_index_excludes_processor_variants() -> None:
    looked = FakeComputer(recorded("intel_desktop"))
    assert (await looked.refusal(device_index=(1,))).code == "cuda.not_available"
    with pytest.raises(WhisperdError) as raised:
        fitting_variants(preset(device_index=(1,)), [(TWO, AVX), (ONE, CPU)])
    assert raised.value.code == "backend.not_usable"


# Detection


@pytest.mark.usefixtures("announce")
async def test_detection_runs_once_and_is_cached() -> None:
    looked = FakeComputer(recorded("intel_desktop"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(looked.computer.judged_variants)
        tasks.start_soon(looked.computer.judged_variants)
    assert looked.detections == 1
    looked.now_s += RENEWED_AFTER_S - 10
    assert await looked.computer.hardware() is looked.hardware
    assert (looked.detections, looked.background) == (1, [])


async def test_old_results_are_refreshed_in_the_background() -> None:
    old, new = recorded("intel_desktop"), recorded("nvidia_cuda12")
    looked = FakeComputer(old)
    await looked.computer.hardware()
    looked.hardware = new
    looked.now_s += RENEWED_AFTER_S + 10
    assert await looked.computer.hardware() is old
    (renew,) = looked.background
    await renew()
    assert await looked.computer.hardware() is new
    assert looked.detections == 2


async def test_a_refresh_that_fails_is_repeated_by_the_next_call_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = FakeComputer(recorded("intel_desktop"))
    await looked.computer.hardware()
    looked.now_s += RENEWED_AFTER_S + 10
    with monkeypatch.context() as patch:
        patch.delattr(looked, "hardware")
        for attempt in range(1, 4):
            await looked.computer.hardware()
            assert len(looked.background) == attempt
            await looked.background[-1]()
    await looked.computer.hardware()
    await looked.background[-1]()
    await looked.computer.hardware()
    assert len(looked.background) == 4


async def test_detection_can_be_repeated_on_request() -> None:
    looked = FakeComputer(recorded("intel_desktop"))
    await looked.computer.hardware()
    looked.now_s += 1
    looked.hardware = recorded("nvidia_cuda12")
    assert await looked.computer.look_again() is looked.hardware


@pytest.mark.usefixtures("announce")
async def test_a_requested_gpu_is_detected_again_before_it_is_refused() -> None:
    with_gpu = recorded("nvidia_cuda12")
    looked = FakeComputer(recorded("nvidia_broken"))
    assert (await looked.refusal(device="cuda")).code == "cuda.not_available"
    await looked.computer.hardware()
    looked.hardware = msgspec.structs.replace(looked.hardware, gpus=with_gpu.gpus)
    assert "one-cuda12" in await looked.usable(device="cuda")
    assert looked.detections == 1


@pytest.mark.usefixtures("announce")
@pytest.mark.parametrize(("name", "count"), [("nvidia_cuda12", 2), ("intel_desktop", 0)])
async def test_gpus_that_a_variant_can_use(name: str, count: int) -> None:
    assert len(await FakeComputer(recorded(name)).computer.usable_gpus()) == count


async def test_gpus_that_no_variant_can_use(announce: Callable[..., None]) -> None:
    announce((replace(ONE, variants=(CUDA12,)), CUDA12))
    assert await FakeComputer(recorded("nvidia_old_driver")).computer.usable_gpus() == ()
    announce((TWO, AVX))
    looked = FakeComputer(recorded("nvidia_cuda12"))
    assert await looked.computer.usable_gpus() == ()
    assert looked.detections == 0
