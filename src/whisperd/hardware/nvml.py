"""Query NVIDIA's driver library, NVML, for its GPUs: `python -m whisperd.hardware.nvml`.

Runs as a separate process, because a broken driver may crash or never respond. Prints its answer as one line
of JSON (`whisperd.hardware.messages`). NVML ships with the driver and is a C library with a stable interface:
https://docs.nvidia.com/deploy/nvml-api.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import PureWindowsPath
from typing import Final, TypeVar

import msgspec

from whisperd.child import watch_parent
from whisperd.hardware.memory import read_memory
from whisperd.hardware.messages import DriverAnswer, SeenGpu, SeenInstance

__all__ = ["main"]

Fact = TypeVar("Fact")

_NOT_SUPPORTED: Final = 3
_FUNCTION_NOT_FOUND: Final = 13
_MIG_IS_ON: Final = 1
_TEXT_BYTES: Final = 96
"""The length of the longest text that NVML writes."""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Nvml:
    """The library's functions; each raises `_Refused` with the library's code."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: object) -> None:
        function = getattr(self._library, name, None)
        code = _FUNCTION_NOT_FOUND if function is None else int(function(*arguments))
        if code:
            raise _Refused(code)

    def text(self, name: str, *arguments: object) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        self.call(name, *arguments, buffer, ctypes.c_uint(_TEXT_BYTES))
        return buffer.value.decode(errors="replace")

    def number(self, name: str, *arguments: object) -> int:
        value = ctypes.c_int()
        self.call(name, *arguments, ctypes.byref(value))
        return value.value

    def memory(self, handle: ctypes.c_void_p) -> _Memory:
        """Return the memory of a GPU; for one without its own, as in GB10 or Jetson, the computer's."""
        memory = _Memory()
        try:
            self.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        except _Refused as refusal:
            if refusal.code != _NOT_SUPPORTED:
                raise
            shared = read_memory()
            return _Memory(total=shared.total, free=shared.available)
        return memory

    def gpu(self, index: int) -> SeenGpu:
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        instances = self.instances(handle)
        if instances is None:
            memory = self.memory(handle)
        else:  # a container that was given one instance may not query the memory of the whole GPU
            memory = _known(lambda: self.memory(handle)) or _Memory()
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
        return SeenGpu(
            name=self.text("nvmlDeviceGetName", handle),
            uuid=self.text("nvmlDeviceGetUUID", handle),
            memory_total=memory.total,
            memory_free=memory.free,
            compute_capability=(major.value, minor.value),
            instances=instances,
        )

    def instances(self, handle: ctypes.c_void_p) -> tuple[SeenInstance, ...] | None:
        """Return the MIG instances of a GPU; None if it is not partitioned or does not support MIG."""
        if _known(lambda: self.is_in_mig_mode(handle)) is not True:
            return None
        most = _known(lambda: self.number("nvmlDeviceGetMaxMigDeviceCount", handle)) or 0
        seen = (_known(partial(self.instance, handle, index)) for index in range(most))
        return tuple(instance for instance in seen if instance is not None)

    def is_in_mig_mode(self, handle: ctypes.c_void_p) -> bool:
        """Whether a GPU is in MIG mode, in which only its instances can be used."""
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        self.call("nvmlDeviceGetMigMode", handle, ctypes.byref(current), ctypes.byref(pending))
        return current.value == _MIG_IS_ON

    def instance(self, gpu: ctypes.c_void_p, index: int) -> SeenInstance:
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetMigDeviceHandleByIndex", gpu, ctypes.c_uint(index), ctypes.byref(handle))
        memory = self.memory(handle)
        return SeenInstance(
            name=self.text("nvmlDeviceGetName", handle),
            uuid=self.text("nvmlDeviceGetUUID", handle),
            ids=(
                self.number("nvmlDeviceGetGpuInstanceId", handle),
                self.number("nvmlDeviceGetComputeInstanceId", handle),
            ),
            memory_total=memory.total,
            memory_free=memory.free,
        )


def ask_driver() -> DriverAnswer:
    """Query the driver for everything in `DriverAnswer`."""
    try:
        nvml = _Nvml(_open_library())
    except OSError:
        return DriverAnswer(has_library=False)
    try:
        nvml.call("nvmlInit_v2")
    except _Refused as refusal:
        return DriverAnswer(error=refusal.code)
    driver = _known(lambda: nvml.text("nvmlSystemGetDriverVersion"))
    cuda = _known(lambda: nvml.number("nvmlSystemGetCudaDriverVersion"))
    try:
        count = nvml.number("nvmlDeviceGetCount_v2")
    except _Refused as refusal:
        return DriverAnswer(driver=driver, cuda=cuda, error=refusal.code)
    gpus = tuple(_known(partial(nvml.gpu, index)) for index in range(count))
    return DriverAnswer(driver=driver, cuda=cuda, gpus=gpus)


def _known(ask: Callable[[], Fact]) -> Fact | None:
    """Return one fact, or None if the library refuses it, so that the other facts are still queried."""
    try:
        return ask()
    except _Refused:
        return None


def _open_library() -> ctypes.CDLL:
    if sys.platform == "win32":
        system = PureWindowsPath(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32")
        return ctypes.CDLL(str(system / "nvml.dll"))
    return ctypes.CDLL("libnvidia-ml.so.1")


def main() -> None:
    """Query the driver and print its answer."""
    watch_parent()
    answer = msgspec.json.encode(ask_driver())
    os.write(1, answer + b"\n")
    os._exit(0)  # the answer is out: skip the library's teardown, which may crash or hang


if __name__ == "__main__":
    main()
