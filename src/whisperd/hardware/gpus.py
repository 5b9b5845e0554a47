"""Detect NVIDIA GPUs: which exist, which compute types they support, and why none can be used.

GPUs are numbered as CUDA numbers them in a process with `DEVICE_ORDER` in its environment: in PCI bus
order, like `nvidia-smi`, and only those that `CUDA_VISIBLE_DEVICES` names.
If a GPU is partitioned (multi-instance GPU, MIG), CUDA sees its first instance and no other GPU.
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
from whisperd.decodable import decodable
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
"""For the environment of a worker. By default, CUDA puts first the GPU that it considers the fastest."""
ANSWER_TIMEOUT_S: Final = 10.0
"""A driver that has to wake its GPUs takes seconds. One that takes longer than this counts as stuck."""
MAX_ANSWER_BYTES: Final = 1 << 20

CudaVersion = tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """A GPU. Memory in bytes."""

    index: int
    """Its CUDA device number."""
    name: str
    memory_total: int
    memory_free: int
    compute_capability: tuple[int, int]


@dataclass(frozen=True)
class Gpus:
    """The usable GPUs, and the driver."""

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    """The version of the driver, if there is one."""
    cuda: CudaVersion | None = None
    """The newest CUDA version that the driver supports."""
    problem: WhisperdError | None = None
    """Why no GPU can be used (`cuda.not_available`)."""
    source: str = "NVML, the library of NVIDIA's driver"
    """Where these values were read."""


async def find_gpus(
    timeout_s: float = ANSWER_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    exists: Callable[[str], bool] = os.path.exists,
) -> Gpus:
    """Query the driver in a child process. `env` replaces the environment of this process.

    Raises nothing: the reason why no GPU can be used is the result's `problem`.
    """
    env = os.environ if env is None else env
    if not may_have_driver(env, exists):
        return _no_driver()
    try:
        answer = await _query_driver(timeout_s, env)
    except WhisperdError as problem:
        return Gpus(problem=problem)
    return gpus_from(answer, env.get("CUDA_VISIBLE_DEVICES"))


def check_cuda(gpus: Gpus, needed: CudaVersion = (12, 0)) -> None:
    """Raise an error if a library built with this version of CUDA cannot be used.

    That is `cuda.not_available`, or `cuda.driver_too_old` if the driver does not support this version.
    """
    if gpus.problem is not None:
        raise gpus.problem.copy()
    # Within a major version, a library also runs on drivers older than itself.
    if gpus.cuda is not None and gpus.cuda[0] < needed[0]:
        version = f" {gpus.driver}" if gpus.driver else ""
        least = _LEAST_DRIVER.get(needed[0])
        raise WhisperdError(
            "cuda.driver_too_old",
            f"CUDA {_dotted(needed)} is needed, but the NVIDIA driver{version} supports only CUDA "
            f"{_dotted(gpus.cuda)}.",
            f"Update the NVIDIA driver{f' to {least} or newer' if least else ''}, or {_ON_THE_CPU}.",
            {"driver": gpus.driver, "cuda": _dotted(gpus.cuda), "needed": _dotted(needed)},
        )


def gpu_compute_types(capability: tuple[int, int]) -> tuple[str, ...]:
    """Return the compute types that a GPU supports, the best choice first.

    Source: the tables "On GPU" in CTranslate2's documentation (docs/quantization.md). From compute
    capability 8.0 all types, from 7.0 all but bfloat16, 6.1 int8 without float16, and all others,
    6.2 and 6.0 included, only float32.
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
    """Interpret the driver's answer; `visible` is the value of `CUDA_VISIBLE_DEVICES`."""
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
            "Check that the GPU is plugged in and, in a container or a virtual machine, passed through to "
            f"it, or {_ON_THE_CPU}.",
        )
    elif not there:
        problem = _unavailable("lost", "none responds to the driver", _RESTART)
    elif not visible_gpus(there, None):
        problem = _unavailable(
            "undivided",
            "each is in MIG mode and has no instance that this user may use",
            "Create an instance with `sudo nvidia-smi mig -cgi 0 -C`, or turn off MIG mode with "
            "`sudo nvidia-smi -mig 0`.",
        )
    else:
        seen = visible_gpus(there, visible)
        if seen:
            return Gpus(seen, driver, cuda)
        problem = _unavailable(
            "hidden",
            f"the variable CUDA_VISIBLE_DEVICES is {visible!r:.100}, which hides them all",
            "Unset CUDA_VISIBLE_DEVICES in the daemon's environment, then restart the daemon.",
        )
    return Gpus((), driver, cuda, problem)


def visible_gpus(gpus: Sequence[SeenGpu], visible: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that `CUDA_VISIBLE_DEVICES` selects, in its order and renumbered by it.

    The variable lists numbers, or prefixes of UUIDs, of GPUs or of instances. As in CUDA, the list ends
    before the first entry that names no device, such as -1, or repeats one. None means that the variable is
    unset: all are seen.
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
    """A CUDA device: a whole GPU, or an instance of one."""

    gpu: SeenGpu
    instance: SeenInstance | None = None


def _numbered(devices: Sequence[_Device]) -> tuple[Gpu, ...]:
    """Return the devices that a process sees: a single instance, or any number of whole GPUs."""
    instance = next((device for device in devices if device.instance), None)
    return tuple(_gpu(index, device) for index, device in enumerate([instance] if instance else devices))


def _gpu(index: int, device: _Device) -> Gpu:
    part = device.instance or device.gpu
    return Gpu(index, part.name, part.memory_total, part.memory_free, device.gpu.compute_capability)


def _first_device(gpu: SeenGpu) -> _Device | None:
    """Return the GPU itself or its first instance; None for a GPU in MIG mode without instances."""
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
    """Whether an entry names this instance, by its UUID or, with older drivers, by its GPU and ids."""
    assert device.instance is not None
    gpu_instance, compute_instance = device.instance.ids
    by_ids = f"MIG-{device.gpu.uuid}/{gpu_instance}/{compute_instance}"
    return device.instance.uuid.startswith(entry) or entry == by_ids


def may_have_driver(env: Mapping[str, str], exists: Callable[[str], bool]) -> bool:
    """Whether querying the driver is worthwhile: False if no file of NVIDIA's driver is found. Fast."""
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


async def _query_driver(timeout_s: float, env: Mapping[str, str]) -> DriverAnswer:
    """Return the driver's answer. Raises `WhisperdError` (`cuda.not_available`) if it gives none."""
    import anyio  # imported here because the detection process does not need it

    try:
        with anyio.fail_after(timeout_s):
            async with open_child(
                python_command("whisperd.hardware.nvml"), env=env, stderr=subprocess.DEVNULL
            ) as child:
                assert child.stdout is not None
                output = await _read_all(child.stdout)
                status = await child.wait()
    except TimeoutError:
        why = f"its driver did not respond within {timeout_s:g} seconds"
        raise _unavailable("stuck", why, _RESTART) from None
    except OSError as error:
        fix = "Close programs that you do not need, or raise the limits on processes and open files."
        why = f"the process that queries its driver could not be started ({error.strerror or error})"
        raise _unavailable("not_asked", why, fix) from error
    try:
        return msgspec.json.decode(output, type=decodable(DriverAnswer))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = f"its driver's library crashed when queried ({how_it_ended(status)})"
        raise _unavailable("crashed", why, _REINSTALL) from error


async def _read_all(stream: ByteReceiveStream) -> bytes:
    data = b""
    async for chunk in stream:
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            break
    return data


# Error messages

_LEAST_DRIVER: Final = {11: "450", 12: "525", 13: "580"}
"""By major version of CUDA: the oldest branch of the Linux driver that supports it."""
_ON_THE_CPU: Final = "use the CPU with `--device cpu`"
_RESTART: Final = "Restart the computer; if `nvidia-smi` still fails, reinstall the NVIDIA driver."
_REINSTALL: Final = "Reinstall the NVIDIA driver and restart the computer; `nvidia-smi` should then work."

_REFUSALS: Final = {
    4: (
        "no_permission",
        "this user has no permission to use one",
        "Give the user read and write access to /dev/nvidia*, often by adding it to the group `video` or "
        "`render`, then log in again.",
    ),
    9: (
        "not_loaded",
        "the NVIDIA driver is installed but not loaded",
        "Restart the computer; if that does not help, reinstall the NVIDIA driver for this kernel.",
    ),
    18: (
        "version_mismatch",
        "the driver's library was updated, but the old driver is still loaded",
        "Restart the computer.",
    ),
}
"""By NVML's code: a word, the reason, the fix."""


def _refusal(code: int) -> WhisperdError:
    word, why, fix = _REFUSALS.get(
        code, ("broken", f"the driver's library fails with NVML error {code}", _REINSTALL)
    )
    return _unavailable(word, why, fix, nvml_error=code)


def _no_driver() -> Gpus:
    if sys.platform == "darwin":
        why, fix = "macOS has no NVIDIA driver", f"Leave the choice to whisperd, or {_ON_THE_CPU}."
    else:
        why = "no NVIDIA driver is installed"
        fix = f"Install the NVIDIA driver if this computer has an NVIDIA GPU, or {_ON_THE_CPU}."
    return Gpus(
        problem=_unavailable("no_driver", why, fix), source="a search for the files of NVIDIA's driver"
    )


def _unavailable(reason: str, why: str, fix: str, **data: object) -> WhisperdError:
    message = f"No NVIDIA GPU can be used: {why}."
    return WhisperdError("cuda.not_available", message, fix, {"reason": reason, **data})


def _dotted(version: CudaVersion) -> str:
    return f"{version[0]}.{version[1]}"
