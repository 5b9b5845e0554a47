"""Detection on many kinds of computers (tests/data/hardware)."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorded_computers import NAMES, computer, detect, probes_of
from whisperd.hardware import Hardware, Memory, usable_cores
from whisperd.hardware.cgroups import cpu_quota
from whisperd.hardware.detect import FACTS
from whisperd.hardware.facts import Cores
from whisperd.hardware.libraries import parse_loader_cache
from whisperd.hardware.probes import ProbeFailed
from whisperd.hardware.processor import parse_cpuinfo, parse_sysctl

AVX2 = ("sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2")
AVX512 = ("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16")


VARIABLES = ("CUDA_PATH", "OPENBLAS_PATH", "MKLROOT", "LD_LIBRARY_PATH", "PATH", "CXX")


def libraries(found: Hardware, kind: str = "cuda_libraries") -> list[tuple[str, str | None, str]]:
    return [(one.name, one.version, one.source) for one in getattr(found, kind).found]


def notes(found: Hardware, kind: str = "cuda_libraries") -> str:
    return " ".join(getattr(found, kind).notes)


def headers(found: Hardware) -> list[str | None]:
    assert found.blas is not None
    return [one.headers for one in found.blas.found]


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_of_every_computer_is_known_and_has_a_source(name: str) -> None:
    found = computer(name)
    assert found.unknown == {}
    for fact in (found.system, found.processor, found.memory):
        assert fact is not None and fact.source
    for libraries in (found.cuda_libraries, found.blas):
        assert libraries is not None and all(one.source for one in libraries.found)
    assert found.tools is not None


# The processor


@pytest.mark.parametrize(
    ("name", "vendor", "model", "features"),
    [
        ("intel_desktop", "Intel", "Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", AVX2),
        (
            "xeon_amx",
            "Intel",
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            (*AVX2, "avx_vnni", *AVX512, "amx_tile", "amx_int8", "amx_bf16"),
        ),
        ("amd_desktop", "AMD", "AMD Ryzen 7 5800X 8-Core Processor", AVX2),
        ("old_no_avx", "Intel", "Intel(R) Core(TM)2 Duo CPU E8400 @ 3.00GHz", ("sse4_1",)),
        ("raspberry_pi", "ARM", "Cortex-A72", ("neon",)),
        ("graviton", "ARM", "Neoverse V1", ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve")),
        ("big_little", "ARM", "Cortex-A55 and Cortex-A76", ("neon", "fp16", "dotprod")),
        ("mac_m2", "Apple", "Apple M2", ("neon", "fp16", "dotprod", "i8mm", "bf16")),
        ("mac_intel", "Intel", "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", AVX2),
        ("mac_rosetta", "Apple", "VirtualApple @ 2.50GHz", ("sse4_1", "sse4_2")),
        ("windows", "AMD", "AMD Ryzen 7 5700G with Radeon Graphics", AVX2),
        ("windows_nvidia", "Intel", "13th Gen Intel(R) Core(TM) i7-13700K", (*AVX2, "avx512f")),
    ],
)
def test_processors(name: str, vendor: str, model: str, features: tuple[str, ...]) -> None:
    processor = computer(name).processor
    assert processor is not None
    assert (processor.vendor, processor.model, processor.features) == (vendor, model, features)


@pytest.mark.parametrize(
    ("name", "cores", "usable"),
    [
        ("intel_desktop", Cores(physical=6, logical=12), 12),
        ("docker_v2", Cores(physical=6, logical=12, quota=1.5), 2),
        ("docker_v1", Cores(physical=6, logical=12, affinity=4, quota=2.0), 2),
        ("raspberry_pi", Cores(physical=4, logical=4), 4),
        ("mac_intel", Cores(physical=6, logical=12), 12),
        ("windows", Cores(physical=8, logical=16), 16),
    ],
)
def test_cores(name: str, cores: Cores, usable: int) -> None:
    processor = computer(name).processor
    assert processor is not None
    assert (processor.cores, processor.cores.usable) == (cores, usable)


def test_the_tightest_quota_applies() -> None:
    files = {
        "/proc/self/cgroup": "0::/a/b\n",
        "/sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/a/cpu.max": "50000 100000\n",
        "/sys/fs/cgroup/cpu.max": "400000 100000\n",
    }
    assert cpu_quota(files.get) == 0.5
    assert Cores(physical=None, logical=8, quota=0.5).usable == 1


@pytest.mark.parametrize("nonsense", ["", "max", "max 100000", "-1 100000", "1 0", "0 100000", "1", "² ³"])
def test_an_invalid_quota_is_ignored(nonsense: str) -> None:
    assert cpu_quota({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": nonsense}.get) is None


def test_usable_cores_of_this_computer() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


# Memory and system


@pytest.mark.parametrize(
    ("name", "total", "available", "source"),
    [
        ("intel_desktop", 33565208576, 24113258496, "the system"),
        ("docker_v2", 2**31, 2**31 - 536870912 + 67108864 + 33554432, "the control group /sys/fs/cgroup"),
        ("docker_v1", 2**32, 2**32 - 2**30 + 2**28, "the control group /sys/fs/cgroup/memory"),
    ],
)
def test_memory(name: str, total: int, available: int, source: str) -> None:
    memory = computer(name).memory
    assert memory is not None
    assert (memory, memory.source) == (Memory(total, available), source)


@pytest.mark.parametrize(
    ("name", "platform", "fields"),
    [
        ("intel_desktop", "linux-x86_64", {"libc": "glibc", "distributions": ("ubuntu", "debian")}),
        ("graviton", "linux-aarch64", {"libc": "glibc", "distributions": ("amzn", "fedora")}),
        ("alpine_musl", "linux-x86_64", {"libc": "musl", "libc_version": None}),
        ("mac_m2", "macos-arm64", {"apple_silicon": True, "rosetta": False, "name": "macOS 14.5"}),
        ("mac_m2", "macos-arm64", {"frameworks": ("Accelerate", "CoreML", "Metal")}),
        ("mac_intel", "macos-x86_64", {"apple_silicon": False, "rosetta": False}),
        ("mac_rosetta", "macos-x86_64", {"apple_silicon": True, "rosetta": True}),
        ("windows", "windows-x86_64", {"name": "Windows 10.0.22631", "libc": None}),
    ],
)
def test_systems(name: str, platform: str, fields: dict[str, Any]) -> None:
    system = computer(name).system
    assert system is not None and system.platform == platform
    assert {field: getattr(system, field) for field in fields} == fields


# Libraries and tools


def test_cuda_libraries_from_every_source() -> None:
    found = computer("nvidia_cuda12")
    assert libraries(found) == [
        ("cublas", "12.4.5.8", "CUDA_PATH"),
        ("cudart", "12.4.127", "CUDA_PATH"),
        ("cublas", "11", "a Python package"),
        ("cudnn", "9", "a Python package"),
    ]
    assert notes(found) == ""


def test_cuda_libraries_of_a_bundle() -> None:
    known = probes_of("nvidia_cuda12", site_folders=(), env={})
    without_toolkit = dataclasses.replace(
        known, names=lambda folder: () if folder.startswith("/usr/local") else known.names(folder)
    )
    assert libraries(detect(without_toolkit)) == [
        ("cublas", "12", "the native bundle ctranslate2-cuda12"),
        ("cudart", "12", "the native bundle ctranslate2-cuda12"),
    ]


def test_cuda_libraries_on_windows() -> None:
    assert libraries(computer("windows_nvidia")) == [
        ("cublas", "12", "CUDA_PATH"),
        ("cudart", "12", "CUDA_PATH"),
        ("cublas", "11", "CUDA's usual folder"),
        ("cudart", "11.0", "CUDA's usual folder"),
    ]


def test_variables_that_name_missing_folders_are_reported() -> None:
    found = computer("cuda_path_nowhere")
    assert libraries(found) == []
    assert notes(found) == ("CUDA_PATH is ignored: the folder '/usr/local/cuda-12.1' does not exist.")
    assert notes(found, "blas") == (
        "OPENBLAS_PATH is ignored: no library was found in '/opt/openblas'. "
        "MKLROOT is ignored: the folder '/opt/mkl/' does not exist."
    )
    assert libraries(found, "blas") == []


def test_unusable_library_versions_are_reported() -> None:
    found = computer("cublas_10")
    assert libraries(found) == [
        ("cublas", "10.2.3.254", "CUDA_PATH"),
        ("cudart", "10.2", "CUDA_PATH"),
        ("cublas", "13", "LD_LIBRARY_PATH"),
    ]
    assert notes(found).count("which no variant uses") == 2
    assert "CUDA_PATH leads to /usr/local/cuda-10.2/lib64/libcublas.so.10.2.3.254 " in notes(found)
    assert "/opt/cuda-13/lib64/libcublas.so.13 of CUDA 13, which no variant uses" in notes(found)


@pytest.mark.parametrize(
    ("name", "found", "headers_in"),
    [
        (
            "intel_desktop",
            [("openblas", None, "the loader's cache")],
            ["/usr/include/x86_64-linux-gnu/openblas-pthread"],
        ),
        (
            "xeon_amx",
            [("mkl", "2", "MKLROOT")],
            ["/opt/intel/oneapi/mkl/2024.1/include"],
        ),
        ("amd_desktop", [("openblas", None, "the loader's cache")], ["/usr/include/openblas"]),
        ("alpine_musl", [("openblas", None, "the loader's folders")], ["/usr/include"]),
        ("raspberry_pi", [("openblas", None, "the loader's cache")], [None]),
        ("graviton", [], []),
        ("mac_m2", [("openblas", None, "its usual folder")], ["/opt/homebrew/opt/openblas/include"]),
        ("windows", [("openblas", None, "OPENBLAS_PATH")], [r"C:\OpenBLAS\include"]),
    ],
)
def test_blas_libraries(
    name: str, found: list[tuple[str, str | None, str]], headers_in: list[str | None]
) -> None:
    here = computer(name)
    assert libraries(here, "blas") == found
    assert headers(here) == headers_in


@pytest.mark.parametrize(
    ("name", "cxx", "source"),
    [
        ("intel_desktop", "/usr/bin/c++", "PATH"),
        ("old_no_avx", None, None),
        ("mac_m2", "/usr/bin/c++", "PATH"),
        ("mac_intel", None, None),  # its c++ only offers to install a compiler
        ("windows", r"C:\Program Files\Microsoft Visual Studio\2022\Community", "vswhere"),
        ("windows_nvidia", None, None),
    ],
)
def test_compilers(name: str, cxx: str | None, source: str | None) -> None:
    tools = computer(name).tools
    assert tools is not None
    assert (tools.cxx and tools.cxx.path, tools.cxx and tools.cxx.source) == (cxx, source)


@pytest.mark.parametrize(
    ("variable", "path"), [("g++", "/usr/bin/g++"), ("/usr/bin/cc -m64", "/usr/bin/cc"), ("icpx", None)]
)
def test_a_compiler_named_in_a_variable(variable: str, path: str | None) -> None:
    tools = computer("intel_desktop", CXX=variable).tools
    assert tools is not None
    assert (tools.cxx and tools.cxx.path) == path


# GPUs


@pytest.mark.parametrize(
    ("name", "visible", "names"),
    [
        ("nvidia_cuda12", None, ["NVIDIA GeForce RTX 3090", "NVIDIA GeForce GTX 1660"]),
        ("nvidia_cuda12", "1", ["NVIDIA GeForce GTX 1660"]),
        ("nvidia_cuda12", "1,0", ["NVIDIA GeForce GTX 1660", "NVIDIA GeForce RTX 3090"]),
        ("nvidia_cuda12", "GPU-2e7b", ["NVIDIA GeForce GTX 1660"]),
        ("nvidia_cuda12", "0,-1,1", ["NVIDIA GeForce RTX 3090"]),
        ("nvidia_cuda12", "-1", []),
        ("nvidia_cuda12", "", []),
        ("nvidia_cuda12", "MIG-c7384736", []),
        # An instance hides every other GPU.
        ("nvidia_mig", None, ["NVIDIA A100-SXM4-40GB MIG 3g.20gb"]),
        ("nvidia_mig", "0", ["NVIDIA A30"]),
        ("nvidia_mig", "1", ["NVIDIA A100-SXM4-40GB MIG 3g.20gb"]),
        ("nvidia_mig", "0,1", ["NVIDIA A100-SXM4-40GB MIG 3g.20gb"]),
        ("nvidia_mig", "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb"]),
        ("nvidia_mig", "MIG-a28a,MIG-c738", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb"]),
        (
            "nvidia_mig",
            "MIG-GPU-4c9d5f6b-3e4a-7f8b-1c2d-d4e5f6a7b8c9/9/0",
            ["NVIDIA A100-SXM4-40GB MIG 1g.5gb"],
        ),
        ("nvidia_mig", "MIG-", []),  # matches two instances
        ("nvidia_mig", "MIG-0000", []),
    ],
)
def test_visible_gpus(name: str, visible: str | None, names: list[str]) -> None:
    gpus = computer(name, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})).gpus
    assert [gpu.name for gpu in gpus.gpus] == names
    assert [gpu.index for gpu in gpus.gpus] == list(range(len(names)))
    if not names:
        assert gpus.problem is not None and gpus.problem.data["reason"] == "hidden"


def test_an_instance_has_its_own_memory_and_its_gpus_capability() -> None:
    (gpu,) = computer("nvidia_mig", CUDA_VISIBLE_DEVICES="MIG-a28a").gpus.gpus
    assert gpu.memory_total == 5100273664
    assert gpu.compute_capability == (8, 0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nvidia_undivided", "undivided"),
        ("nvidia_broken", "version_mismatch"),
        ("windows", "no_driver"),
        ("graviton", "no_driver"),
    ],
)
def test_reasons_for_no_gpu(name: str, reason: str) -> None:
    problem = computer(name).gpus.problem
    assert problem is not None and problem.data["reason"] == reason and problem.fix


# Failures


@pytest.mark.parametrize("name", list(FACTS))
def test_a_failing_probe_loses_only_its_fact(name: str) -> None:
    failing: dict[str, dict[str, Any]] = {
        "system": {"names": _only_fails_for("/lib")},
        "processor": {"physical_count": _fail},
        "memory": {"memory": _fail},
        "cuda_libraries": {"names": _only_fails_for("/usr/local")},
        "blas": {"names": _only_fails_for("/opt/OpenBLAS/lib")},
        "tools": {"names": _only_fails_for("/usr/bin")},
    }
    found = detect(probes_of("intel_desktop", **failing[name]))
    assert dict(found.unknown) == {name: "The disk is on fire."}
    for other in FACTS:
        assert (getattr(found, other) is None) == (other == name)


def _fail(*_: object) -> Any:
    raise ProbeFailed("the disk is on fire")


def _only_fails_for(folder: str) -> Any:
    names = probes_of("intel_desktop").names
    return lambda asked: _fail() if asked == folder else names(asked)


def test_an_exception_in_a_probe_loses_only_its_fact() -> None:
    def divide() -> Memory:
        raise ZeroDivisionError("by nothing")

    found = detect(probes_of("graviton", memory=divide))
    assert found.memory is None and "ZeroDivisionError" in found.unknown["memory"]
    assert found.processor is not None


def test_a_computer_that_reveals_nothing() -> None:
    found = detect(
        probes_of("intel_desktop", read=lambda _: None, names=lambda _: (), run=_fail, memory=_fail, env={})
    )
    assert set(found.unknown) == {"processor", "memory"}
    assert found.unknown["processor"] == "/proc/cpuinfo cannot be read."


text = st.text(max_size=300)
lines = st.lists(
    st.sampled_from(
        ["flags", "Features", "vendor_id", "CPU implementer", "CPU part", "model name", "", ":", "\t", "x: y"]
    ).flatmap(lambda name: st.builds(lambda value: f"{name}\t: {value}", st.text(max_size=20))),
    max_size=12,
).map("\n".join)


@given(text | lines)
def test_any_cpuinfo_can_be_read(said: str) -> None:
    vendor, model, features = parse_cpuinfo(said)
    assert vendor is None or vendor
    assert model is None or model
    assert features <= {*AVX2, *AVX512, "avx_vnni", "neon", "fp16", "dotprod", "i8mm", "bf16", "sve"}


@given(st.sets(st.sampled_from(AVX2)), st.sets(st.sampled_from(AVX2)))
def test_only_features_of_all_cores_count(one: set[str], other: set[str]) -> None:
    said = f"processor: 0\nflags: {' '.join(one)}\n\nprocessor: 1\nflags: {' '.join(other)}\n"
    assert parse_cpuinfo(said)[2] == one & other


@given(text, st.sampled_from(["x86_64", "aarch64", "riscv64"]))
def test_any_loader_cache_and_any_sysctl_output_can_be_read(said: str, arch: str) -> None:
    for folder, file in parse_loader_cache(f"\tlib (libc6,x86-64) => {said}", arch):
        assert folder.startswith("/") and file and "/" not in file
    parse_sysctl(said)


@given(
    said=st.dictionaries(st.sampled_from(["cpuinfo", "cgroup", "release", "env", "names"]), text),
    name=st.sampled_from(NAMES),
)
def test_no_answer_of_a_computer_crashes_detection(said: dict[str, str], name: str) -> None:
    known = probes_of(name)
    files = {
        "/proc/cpuinfo": said.get("cpuinfo"),
        "/proc/self/cgroup": said.get("cgroup"),
        "/etc/os-release": said.get("release"),
    }
    value = said.get("env", "")
    found = detect(
        dataclasses.replace(
            known,
            read=lambda path: files.get(path) or known.read(path) or said.get("cgroup"),
            names=lambda folder: said["names"].split() if "names" in said else known.names(folder),
            run=lambda _: said.get("release", ""),
            registry=lambda *_: value,
            env=dict.fromkeys(
                ("CUDA_PATH", "OPENBLAS_PATH", "MKLROOT", "LD_LIBRARY_PATH", "PATH", "CXX"), value
            ),
        )
    )
    assert found.unknown == {}
