"""NVIDIA GPUs: which there are, what they can compute, and why none can be used.

GPUs are numbered as CUDA numbers them in a process with `DEVICE_ORDER` in its environment: in the
order of the PCI bus, as `nvidia-smi` does, and of those only the ones that `CUDA_VISIBLE_DEVICES` names.
A GPU may be divided (multi-instance GPU, MIG): then CUDA sees the first of its instances, and no other GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Final

import msgspec

from whisperd.child import how_it_ended, open_child, python_command
from whisperd.hardware.messages import DriverAnswer, SeenGpu, SeenInstance
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream

__all__ = [
    "DEVICE_ORDER",
    "Gpu",
    "Gpus",
    "check_cuda",
    "find_gpus",
    "gpu_compute_types",
    "gpus_from",
    "may_have_driver",
    "visible_gpus",
]

DEVICE_ORDER: Final = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""For the environment of a worker. By itself CUDA puts the GPU first that it takes for the fastest."""
ANSWER_TIMEOUT_S: Final = 10.0
"""A driver that has to wake its GPUs takes seconds. One that takes longer is taken for stuck."""
MAX_ANSWER_BYTES: Final = 1 << 20

CudaVersion = tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """A GPU. Memory in bytes."""

    index: int
    """Its number for CUDA."""
    name: str
    memory_total: int
    memory_free: int
    compute_capability: tuple[int, int]


@dataclass(frozen=True)
class Gpus:
    """The GPUs that can be used, and the driver."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    """The version of the driver, if there is one."""
    cuda: CudaVersion | None = None
    """The newest CUDA that the driver can do."""
    problem: WhisperdError | None = None
    """Why there are none (`cuda.not_available`)."""
    source: str = "NVML, the library of NVIDIA's driver"
    """What told all this."""


async def find_gpus(
    timeout_s: float = ANSWER_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    exists: Callable[[str], bool] = os.path.exists,
) -> Gpus:
    """Ask the driver, in a child process. `env` stands for the environment of this process.

    Raises nothing: whatever keeps the GPUs from being used is the answer's `problem`.
    """
    env = os.environ if env is None else env
    if not may_have_driver(env, exists):
        return _no_driver()
    try:
        answer = await _ask_aside(timeout_s, env)
    except WhisperdError as problem:
        return Gpus(problem=problem)
    return gpus_from(answer, env.get("CUDA_VISIBLE_DEVICES"))


def check_cuda(gpus: Gpus, needed: CudaVersion = (12, 0)) -> None:
    """Raise why a library that is built with this CUDA cannot be used.

    That is `cuda.not_available`, or `cuda.driver_too_old` where the driver cannot do this CUDA.
    """
    if gpus.problem is not None:
        raise gpus.problem.copy()
    # Within a major version, a library runs on drivers that are older than it.
    if gpus.cuda is not None and gpus.cuda[0] < needed[0]:
        version = f" {gpus.driver}" if gpus.driver else ""
        least = _LEAST_DRIVER.get(needed[0])
        raise WhisperdError(
            "cuda.driver_too_old",
            f"CUDA {_dotted(needed)} is needed, and the NVIDIA driver{version} can do {_dotted(gpus.cuda)}.",
            f"Update the NVIDIA driver{f' to {least} or newer' if least else ''}, or {_ON_THE_PROCESSOR}.",
            {"driver": gpus.driver, "cuda": _dotted(gpus.cuda), "needed": _dotted(needed)},
        )


def gpu_compute_types(capability: tuple[int, int]) -> tuple[str, ...]:
    """What a GPU can compute in, the best choice first.

    After the tables "On GPU" in CTranslate2's documentation (docs/quantization.md): from compute
    capability 8.0 everything, from 7.0 all but bfloat16, 6.1 has int8 without float16, and the others,
    6.2 and 6.0 among them, float32 alone.
    """
    if capability >= (8, 0):
        return (
            "float16",
            "bfloat16",
            "int8_float16",
            "int8_bfloat16",
            "int8",
            "int8_float32",
            "float32",
        )
    if capability >= (7, 0):
        return ("float16", "int8_float16", "int8", "int8_float32", "float32")
    return ("int8_float32", "int8", "float32") if capability == (6, 1) else ("float32",)


def gpus_from(answer: DriverAnswer, visible: str | None) -> Gpus:
    """What the driver's answer means; `visible` is the value of `CUDA_VISIBLE_DEVICES`."""
    if not answer.has_library:
        return _no_driver()
    cuda = None if answer.cuda is None else (answer.cuda // 1000, answer.cuda % 1000 // 10)
    driver = answer.driver or None
    there = [gpu for gpu in answer.gpus if gpu is not None]
    if answer.error is not None:
        problem: WhisperdError | None = _refusal(answer.error)
    elif not answer.gpus:
        problem = _unavailable(
            "no_gpu",
            "the driver finds none",
            "Check that the GPU is plugged in and, in a container or a virtual machine, passed to it, or "
            f"{_ON_THE_PROCESSOR}.",
        )
    elif not there:
        problem = _unavailable("lost", "none answers the driver", _RESTART)
    elif not visible_gpus(there, None):
        problem = _unavailable(
            "undivided",
            "each is in MIG mode, and divided into no instance that this user may use",
            "Make an instance with `sudo nvidia-smi mig -cgi 0 -C`, or end that mode with "
            "`sudo nvidia-smi -mig 0`.",
        )
    else:
        seen = visible_gpus(there, visible)
        if seen:
            return Gpus(seen, driver, cuda)
        problem = _unavailable(
            "hidden",
            f"the variable CUDA_VISIBLE_DEVICES is {visible!r:.100} and shows none",
            "Unset CUDA_VISIBLE_DEVICES where the daemon is started, and start it again.",
        )
    return Gpus((), driver, cuda, problem)


def visible_gpus(gpus: Sequence[SeenGpu], visible: str | None) -> tuple[Gpu, ...]:
    """Those that `CUDA_VISIBLE_DEVICES` shows, in its order and with the numbers that they get by it.

    It lists numbers, or the beginnings of UUIDs, of GPUs or of instances. As for CUDA, the list ends before
    the first entry that names none, such as -1, or one a second time. None: it is not set, and all are seen.
    """
    if visible is None:
        return _numbered([device for gpu in gpus if (device := _first_device(gpu))])
    seen: list[_Device] = []
    for entry in visible.split(","):
        device = _named(gpus, entry.strip())
        if device is None or device in seen:
            break
        seen.append(device)
    return _numbered(seen)


@dataclass(frozen=True)
class _Device:
    """What CUDA can compute on: a whole GPU, or an instance of one."""

    gpu: SeenGpu
    instance: SeenInstance | None = None


def _numbered(devices: Sequence[_Device]) -> tuple[Gpu, ...]:
    """The devices that a process sees: one instance, or else any number of whole GPUs."""
    instance = next((device for device in devices if device.instance), None)
    return tuple(_gpu(index, device) for index, device in enumerate([instance] if instance else devices))


def _gpu(index: int, device: _Device) -> Gpu:
    part = device.instance or device.gpu
    return Gpu(index, part.name, part.memory_total, part.memory_free, device.gpu.compute_capability)


def _first_device(gpu: SeenGpu) -> _Device | None:
    """What of a GPU is seen; None of one that is to be divided, and is divided into nothing."""
    if gpu.instances is None:
        return _Device(gpu)
    return _Device(gpu, gpu.instances[0]) if gpu.instances else None


def _named(gpus: Sequence[SeenGpu], entry: str) -> _Device | None:
    if entry.isascii() and entry.isdecimal():
        index = int(entry[:9])
        return _first_device(gpus[index]) if index < len(gpus) else None
    if entry.startswith("GPU-"):
        found = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        return _first_device(found[0]) if len(found) == 1 else None
    if entry.startswith("MIG-"):
        devices = [_Device(gpu, instance) for gpu in gpus for instance in gpu.instances or ()]
        named = [device for device in devices if _is_called(device, entry)]
        return named[0] if len(named) == 1 else None
    return None


def _is_called(device: _Device, entry: str) -> bool:
    """Whether an entry names this instance: by its UUID or, for older drivers, by its GPU and its ids."""
    assert device.instance is not None
    gpu_instance, compute_instance = device.instance.ids
    by_ids = f"MIG-{device.gpu.uuid}/{gpu_instance}/{compute_instance}"
    return device.instance.uuid.startswith(entry) or entry == by_ids


def may_have_driver(env: Mapping[str, str], exists: Callable[[str], bool]) -> bool:
    """Whether it is worth asking: False where no trace of NVIDIA's driver is found. Quick."""
    if sys.platform == "darwin":
        return False
    if sys.platform == "win32":
        system = PureWindowsPath(env.get("SYSTEMROOT", r"C:\Windows"), "System32")
        return exists(str(system / "nvml.dll"))
    paths = [folder for folder in env.get("LD_LIBRARY_PATH", "").split(":") if folder]
    libraries = [f"{folder}/libnvidia-ml.so.1" for folder in (*paths, *_LIBRARY_FOLDERS)]
    return any(exists(path) for path in (*_DRIVER_FILES, *libraries))


_DRIVER_FILES: Final = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg")  # the last is WSL's
_LIBRARY_FOLDERS: Final = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",  # NixOS
)


async def _ask_aside(timeout_s: float, env: Mapping[str, str]) -> DriverAnswer:
    """The driver's answer. Raises `WhisperdError` (`cuda.not_available`) when there is none."""
    import anyio  # here, for a process that looks at the computer does without it

    try:
        with anyio.fail_after(timeout_s):
            async with open_child(
                python_command("whisperd.hardware.nvml"), env=env, stderr=subprocess.DEVNULL
            ) as child:
                assert child.stdout is not None
                said = await _read_all(child.stdout)
                status = await child.wait()
    except TimeoutError:
        why = f"its driver does not answer within {timeout_s:g} seconds"
        raise _unavailable("stuck", why, _RESTART) from None
    except OSError as error:
        fix = "End programs that are not needed, or raise the limits on processes and open files."
        why = f"the process that asks its driver cannot be started ({error.strerror or error})"
        raise _unavailable("not_asked", why, fix) from error
    try:
        return msgspec.json.decode(said, type=DriverAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = f"its driver's library crashed when it was asked ({how_it_ended(status)})"
        raise _unavailable("crashed", why, _REINSTALL) from error


async def _read_all(stream: ByteReceiveStream) -> bytes:
    said = b""
    async for chunk in stream:
        said += chunk
        if len(said) > MAX_ANSWER_BYTES:
            break
    return said


# Why not, for people

_LEAST_DRIVER: Final = {11: "450", 12: "525", 13: "580"}
"""By major version of CUDA: the oldest branch of Linux' driver that runs it."""
_ON_THE_PROCESSOR: Final = "compute on the processor with `--device cpu`"
_RESTART: Final = "Restart the computer; if `nvidia-smi` fails even then, install the NVIDIA driver again."
_REINSTALL: Final = "Install the NVIDIA driver again and restart the computer, so that `nvidia-smi` works."

_REFUSALS: Final = {
    4: (
        "no_permission",
        "this user may use none",
        "Let the user read and write /dev/nvidia*, often by adding it to the group `video` or `render`, and "
        "log in again.",
    ),
    9: (
        "not_loaded",
        "the NVIDIA driver is installed but not loaded",
        "Restart the computer; if that changes nothing, install the NVIDIA driver for this kernel again.",
    ),
    18: (
        "version_mismatch",
        "the library of the driver was updated, and the old driver is still running",
        "Restart the computer.",
    ),
}
"""By NVML's code: a word, the reason, the fix."""


def _refusal(code: int) -> WhisperdError:
    word, why, fix = _REFUSALS.get(
        code, ("broken", f"the driver's library fails with its error {code}", _REINSTALL)
    )
    return _unavailable(word, why, fix, nvml_error=code)


def _no_driver() -> Gpus:
    if sys.platform == "darwin":
        why, fix = "macOS has no NVIDIA driver", f"Leave the choice to whisperd, or {_ON_THE_PROCESSOR}."
    else:
        why = "no NVIDIA driver is installed"
        fix = f"Install the NVIDIA driver if this computer has an NVIDIA GPU, or {_ON_THE_PROCESSOR}."
    return Gpus(
        problem=_unavailable("no_driver", why, fix), source="a search for the files of NVIDIA's driver"
    )


def _unavailable(reason: str, why: str, fix: str, **data: object) -> WhisperdError:
    message = f"No NVIDIA GPU can be used: {why}."
    return WhisperdError("cuda.not_available", message, fix, {"reason": reason, **data})


def _dotted(version: CudaVersion) -> str:
    return f"{version[0]}.{version[1]}"
