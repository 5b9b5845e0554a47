"""Why a computer cannot use a variant, and how to fix it."""

from __future__ import annotations

import pytest

from recorded_computers import NAMES, computer
from whisperd.hardware import CPU_FEATURES, Hardware, why_not
from whisperd.plugins import Needs
from whisperd.rpc.errors import WhisperdError

CUDA12 = Needs(platforms=("linux-x86_64", "windows-x86_64"), cuda=(12, 0))
CUDA11 = Needs(platforms=("linux-x86_64", "windows-x86_64"), cuda=(11, 0))
COREML = Needs(platforms=("macos-arm64",), frameworks=("CoreML",))
METAL = Needs(frameworks=("Metal",))
BLAS = Needs(blas=True, compiler=True)
AVX = Needs(cpu_features=("sse4_1", "avx", "avx2"))
ALL = {"cuda12": CUDA12, "cuda11": CUDA11, "coreml": COREML, "blas": BLAS, "avx": AVX}


def refusal(needs: Needs, hardware: Hardware) -> WhisperdError:
    problem = why_not(needs, hardware, "the-variant")
    assert problem is not None and problem.message.endswith(".") and problem.fix
    return problem


@pytest.mark.parametrize(
    ("name", "usable"),
    [
        ("intel_desktop", {"blas", "avx"}),
        ("xeon_amx", {"blas", "avx"}),
        ("amd_desktop", {"blas", "avx"}),
        ("alpine_musl", {"blas", "avx"}),
        ("old_no_avx", set()),
        ("raspberry_pi", {"avx"}),  # AVX is not required of an ARM processor
        ("graviton", {"avx"}),
        ("nvidia_cuda12", {"cuda12", "cuda11", "avx"}),
        ("nvidia_old_driver", {"cuda11", "avx"}),
        ("nvidia_mig", {"cuda12", "cuda11", "avx"}),
        ("nvidia_undivided", {"avx"}),
        ("nvidia_broken", {"avx"}),
        ("mac_m2", {"coreml", "blas", "avx"}),
        ("mac_intel", {"avx"}),
        ("mac_rosetta", set()),
        ("windows", {"blas", "avx"}),
        ("windows_nvidia", {"cuda12", "cuda11", "avx"}),
    ],
)
def test_usable_kinds_on_each_computer(name: str, usable: set[str]) -> None:
    hardware = computer(name)
    assert {kind for kind, needs in ALL.items() if why_not(needs, hardware) is None} == usable


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_without_needs_is_usable_everywhere(name: str) -> None:
    assert why_not(Needs(), computer(name)) is None


@pytest.mark.parametrize(
    ("name", "needs", "message", "fix"),
    [
        (
            "intel_desktop",
            COREML,
            "This computer cannot use the-variant: it is built for macos-arm64, but this is linux-x86_64.",
            "choose another variant",
        ),
        (
            "old_no_avx",
            AVX,
            "This computer cannot use the-variant: this CPU has no AVX, AVX2.",
            "In a virtual machine",
        ),
        ("mac_rosetta", COREML, "this Python is built for Intel", "a Python for Apple silicon"),
        ("mac_rosetta", AVX, "Rosetta, which runs this Python", "a Python for Apple silicon"),
        ("raspberry_pi", CUDA12, "it is built for linux-x86_64 or windows-x86_64, but this is", "another"),
        ("windows", METAL, "Metal is available only on macOS", "another variant"),
        ("windows", Needs(frameworks=("CoreML", "Metal")), "CoreML, Metal are available only on macOS", ""),
        ("mac_intel", Needs(frameworks=("Vision",)), "this macOS has no Vision.", "Update macOS."),
        ("old_no_avx", BLAS, "which has no C++ compiler", "sudo apt install build-essential"),
        ("graviton", BLAS, "which has no C++ compiler", "sudo dnf install gcc-c++"),
        ("mac_intel", BLAS, "which has no C++ compiler", "xcode-select --install"),
        ("windows_nvidia", BLAS, "which has no C++ compiler", "winget install"),
        ("raspberry_pi", BLAS, "the headers of OpenBLAS are missing", "sudo apt install libopenblas-dev"),
        ("mac_rosetta", BLAS, "neither was found", "brew install openblas"),
    ],
)
def test_the_reason_and_its_fix(name: str, needs: Needs, message: str, fix: str) -> None:
    problem = refusal(needs, computer(name))
    assert problem.code == "variant.not_usable"
    assert message in problem.message and fix in problem.fix


@pytest.mark.parametrize(
    ("name", "needs", "code"),
    [
        ("intel_desktop", CUDA12, "cuda.not_available"),
        ("nvidia_broken", CUDA12, "cuda.not_available"),
        ("nvidia_old_driver", CUDA12, "cuda.driver_too_old"),
        ("raspberry_pi", CUDA12, "variant.not_usable"),  # the platform is harder to change than a driver
    ],
)
def test_the_gpus_reason_is_passed_on(name: str, needs: Needs, code: str) -> None:
    assert refusal(needs, computer(name)).code == code


def test_the_reasons_data_name_what_is_missing() -> None:
    assert refusal(AVX, computer("old_no_avx")).data == {"missing": "cpu", "features": ["avx", "avx2"]}


def test_an_unknown_distribution_gets_no_command() -> None:
    import msgspec

    hardware = computer("old_no_avx")
    assert hardware.system is not None
    unknown = msgspec.structs.replace(hardware.system, distributions=("plan9",))
    problem = refusal(BLAS, msgspec.structs.replace(hardware, system=unknown))
    assert problem.fix == "Install a C++ compiler."


def test_a_computer_of_which_nothing_is_known() -> None:
    nothing = Hardware(unknown={"blas": "Looking at it takes more than 15 seconds."})
    every = Needs(platforms=("linux-x86_64",), cpu_features=tuple(CPU_FEATURES))
    assert why_not(every, nothing) is None  # nearly all computers have these
    assert refusal(Needs(cuda=(12, 0)), nothing).code == "cuda.not_available"
    assert refusal(Needs(compiler=True), nothing).data == {"missing": "tools"}
    assert "Looking at it takes more than 15 seconds." in refusal(Needs(blas=True), nothing).message
