"""GPUs: the driver's answers, their meaning, and broken drivers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperd.hardware import Gpus, find_gpus, gpu_compute_types, read_memory
from whisperd.hardware.gpus import check_cuda, gpus_from, may_have_driver, visible_gpus
from whisperd.hardware.messages import DriverAnswer, SeenGpu
from whisperd.rpc.errors import WhisperdError

SOURCE = Path(__file__).parent / "fake_nvml.c"


def seen(number: int) -> SeenGpu:
    return SeenGpu(
        name=f"GPU {number}",
        uuid=f"GPU-{number}abc",
        memory_total=8_000,
        memory_free=7_000,
        compute_capability=(8, 6),
    )


THREE = tuple(seen(number) for number in range(3))


def problem_of(gpus: Gpus) -> WhisperdError:
    assert gpus.problem is not None and gpus.gpus == ()
    assert gpus.problem.code == "cuda.not_available"
    return gpus.problem


# The meaning of the driver's answers


def test_an_answer_of_the_driver() -> None:
    found = gpus_from(DriverAnswer(driver="535.1", cuda=12020, gpus=THREE), None)
    assert (found.driver, found.cuda, found.problem) == ("535.1", (12, 2), None)
    assert [(gpu.index, gpu.name) for gpu in found.gpus] == [(0, "GPU 0"), (1, "GPU 1"), (2, "GPU 2")]
    assert (found.gpus[0].memory_total, found.gpus[0].memory_free) == (8_000, 7_000)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("GPU-2", [2]),
        ("GPU-1abc,0", [1, 0]),
        ("1,-1,2", [1]),
        ("0,7,1", [0]),
        ("0,0", [0]),
        ("GPU-", []),  # matches several GPUs
        ("MIG-1abc", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("99999999999999999999", []),
    ],
)
def test_cuda_visible_devices(visible: str | None, names: list[int]) -> None:
    shown = visible_gpus(THREE, visible)
    assert [gpu.name for gpu in shown] == [f"GPU {number}" for number in names]
    assert [gpu.index for gpu in shown] == list(range(len(names)))


@settings(deadline=None)
@given(st.text(alphabet="0123,-GPU abcx", max_size=30))
def test_no_value_selects_a_gpu_twice(visible: str) -> None:
    shown = visible_gpus(THREE, visible)
    assert len({gpu.name for gpu in shown}) == len(shown) <= 3


@pytest.mark.parametrize(
    ("answer", "visible", "reason", "fix"),
    [
        (DriverAnswer(has_library=False), None, "no_driver", "Install the NVIDIA driver if"),
        (DriverAnswer(), None, "no_gpu", "plugged in"),
        (DriverAnswer(gpus=(None,)), None, "lost", "Restart"),
        (DriverAnswer(gpus=THREE), "", "hidden", "Unset CUDA_VISIBLE_DEVICES"),
        (DriverAnswer(error=18), None, "version_mismatch", "Restart the computer."),
        (DriverAnswer(error=4), None, "no_permission", "/dev/nvidia*"),
        (DriverAnswer(error=9), None, "not_loaded", "Restart the computer;"),
        (DriverAnswer(error=999), None, "broken", "Reinstall"),
    ],
)
def test_reasons_for_no_gpu(answer: DriverAnswer, visible: str | None, reason: str, fix: str) -> None:
    problem = problem_of(gpus_from(answer, visible))
    assert problem.data["reason"] == reason
    assert fix in problem.fix


def test_the_driver_version_is_known_even_without_a_visible_gpu() -> None:
    found = gpus_from(DriverAnswer(driver="535.1", cuda=12020, gpus=THREE), "-1")
    assert (found.driver, found.cuda) == ("535.1", (12, 2))


def test_a_driver_that_is_too_old() -> None:
    old = gpus_from(DriverAnswer(driver="470.82", cuda=11040, gpus=THREE), None)
    check_cuda(old, (11, 8))  # any older minor version of the same major version suffices
    with pytest.raises(WhisperdError) as raised:
        check_cuda(old)
    assert raised.value.code == "cuda.driver_too_old"
    assert "470.82" in raised.value.message and "525" in raised.value.fix
    assert raised.value.data == {"driver": "470.82", "cuda": "11.4", "needed": "12.0"}


def test_a_missing_gpu_is_reported_before_an_old_driver() -> None:
    with pytest.raises(WhisperdError) as raised:
        check_cuda(gpus_from(DriverAnswer(driver="470.82", cuda=11040), None))
    assert raised.value.code == "cuda.not_available"


def test_a_driver_of_unknown_version_is_accepted() -> None:
    check_cuda(gpus_from(DriverAnswer(gpus=THREE), None))


@pytest.mark.parametrize(
    ("capability", "first", "missing"),
    [
        ((9, 0), "float16", set()),
        ((8, 0), "float16", set()),
        ((7, 5), "float16", {"bfloat16", "int8_bfloat16"}),
        ((7, 0), "float16", {"bfloat16", "int8_bfloat16"}),
        ((6, 1), "int8_float32", {"bfloat16", "int8_bfloat16", "float16", "int8_float16"}),
    ],
)
def test_compute_types(capability: tuple[int, int], first: str, missing: set[str]) -> None:
    every = {"int8", "int8_float16", "int8_float32", "int8_bfloat16", "float16", "bfloat16", "float32"}
    types = gpu_compute_types(capability)
    assert types[0] == first
    assert set(types) == every - missing and len(set(types)) == len(types)


@pytest.mark.parametrize("capability", [(6, 2), (6, 0), (5, 3), (3, 5)])
def test_old_gpus_compute_only_in_float32(capability: tuple[int, int]) -> None:
    assert gpu_compute_types(capability) == ("float32",)


# Querying the driver

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fake library is made for Linux")


@linux
@pytest.mark.parametrize(
    "trace", ["/dev/nvidiactl", "/dev/dxg", "/usr/lib64/libnvidia-ml.so.1", "/own/libnvidia-ml.so.1"]
)
def test_traces_of_a_driver(trace: str) -> None:
    env = {"LD_LIBRARY_PATH": "/other:/own:"}
    assert may_have_driver(env, lambda path: path == trace)
    assert not may_have_driver(env, lambda _: False)


@pytest.mark.anyio
async def test_without_a_trace_of_a_driver_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperd.hardware.gpus.open_child", None)
    assert problem_of(await find_gpus(exists=lambda _: False)).data["reason"] == "no_driver"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a library that stands in for the driver's."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def driver(library: Path) -> Callable[..., dict[str, str]]:
    """Return a factory of environments with a driver that behaves as named."""

    def make(behaviour: str, **env: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return {**kept, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": behaviour, **env}

    return make


Driver = Callable[..., dict[str, str]]
PATIENT_S = 120.0


@pytest.mark.anyio
async def test_the_driver_is_queried(driver: Driver) -> None:
    found = await find_gpus(PATIENT_S, driver("ok 2"))
    assert (found.driver, found.cuda, found.problem) == ("550.54.15", (12, 4), None)
    assert [gpu.name for gpu in found.gpus] == ["Fake GPU 0", "Fake GPU 1"]
    second = found.gpus[1]
    assert (second.index, second.memory_total, second.memory_free) == (1, 8_000_000_000, 6_000_000_002)
    assert second.compute_capability == (8, 6)


@pytest.mark.anyio
async def test_a_gpu_that_shares_the_computers_memory(driver: Driver) -> None:
    (gpu,) = (await find_gpus(PATIENT_S, driver("shared"))).gpus
    assert (gpu.name, gpu.memory_total) == ("Fake GPU 0", read_memory().total)
    assert 0 < gpu.memory_free <= gpu.memory_total


@pytest.mark.anyio
async def test_only_visible_gpus_are_found(driver: Driver) -> None:
    found = await find_gpus(PATIENT_S, driver("ok 3", CUDA_VISIBLE_DEVICES="GPU-2,0"))
    assert [gpu.name for gpu in found.gpus] == ["Fake GPU 2", "Fake GPU 0"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("ok 0", "no_gpu"), ("error 18", "version_mismatch"), ("error 9", "not_loaded"), ("abort", "crashed")],
)
async def test_a_broken_driver_is_reported(driver: Driver, behaviour: str, reason: str) -> None:
    problem = problem_of(await find_gpus(PATIENT_S, driver(behaviour)))
    assert problem.data["reason"] == reason
    if behaviour == "abort":
        assert "SIGABRT" in problem.message


@pytest.mark.anyio
async def test_a_hanging_driver_is_given_up(driver: Driver) -> None:
    before = set(psutil.Process().children())
    problem = problem_of(await find_gpus(0.5, driver("hang")))
    assert problem.data["reason"] == "stuck"
    assert set(psutil.Process().children()) <= before


@pytest.mark.anyio
async def test_a_lost_gpu_does_not_hide_the_others(driver: Driver) -> None:
    found = await find_gpus(PATIENT_S, driver("lost"))
    assert [gpu.name for gpu in found.gpus] == ["Fake GPU 1"]


@pytest.mark.anyio
async def test_missing_facts_do_not_hide_the_gpu(driver: Driver) -> None:
    found = await find_gpus(PATIENT_S, driver("silent"))
    assert (found.driver, found.cuda, len(found.gpus)) == (None, None, 1)


@pytest.mark.anyio
async def test_a_partitioned_gpu(driver: Driver) -> None:
    found = await find_gpus(PATIENT_S, driver("divided 2"))
    assert [(gpu.name, gpu.compute_capability) for gpu in found.gpus] == [("Fake GPU 100", (8, 6))]
    assert found.gpus[0].memory_total == 8_000_000_000
    for named in ("MIG-1", "MIG-GPU-00000000-aaaa/102/0"):
        found = await find_gpus(PATIENT_S, driver("divided 2", CUDA_VISIBLE_DEVICES=named))
        assert [gpu.name for gpu in found.gpus] == ["Fake GPU 101"]


@pytest.mark.anyio
async def test_a_partitioned_gpu_without_instances(driver: Driver) -> None:
    problem = problem_of(await find_gpus(PATIENT_S, driver("divided 0")))
    assert problem.data["reason"] == "undivided" and "nvidia-smi mig" in problem.fix


@linux
@pytest.mark.anyio
async def test_a_file_that_is_no_library(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    problem = problem_of(await find_gpus(PATIENT_S, driver("ok 1", LD_LIBRARY_PATH=str(tmp_path))))
    assert problem.data["reason"] == "no_driver"
