"""The facts about a computer. Each names its source; `Hardware.unknown` says why one is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from whisperd.hardware.gpus import Gpus
from whisperd.hardware.memory import Memory
from whisperd.processor_features import ARM_FEATURES, CPU_FEATURES, X86_FEATURES

__all__ = [
    "ARM_FEATURES",
    "CPU_FEATURES",
    "X86_FEATURES",
    "Cores",
    "Hardware",
    "Libraries",
    "Library",
    "Processor",
    "System",
    "Tool",
    "Tools",
]


class Cores(msgspec.Struct, frozen=True, kw_only=True):
    """The number of cores, and the limits on how many of them this process may use."""

    physical: int | None
    """None if the system does not report it."""
    logical: int
    affinity: int | None = None
    """How many cores the scheduler allows; None if it does not limit this process."""
    quota: float | None = None
    """How many cores' time a control group allows; None without a limit."""

    @property
    def usable(self) -> int:
        """The number of threads that can run in parallel. A fraction of a core counts as a whole one."""
        allowed = min(self.logical, self.affinity or self.logical)
        return max(1, allowed if self.quota is None else min(allowed, math.ceil(self.quota)))


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """The processor."""

    vendor: str | None = None
    model: str | None = None
    features: tuple[str, ...]
    """Those of `CPU_FEATURES` that every core has, in the same order."""
    cores: Cores
    source: str
    """Where these values were read."""


class System(msgspec.Struct, frozen=True, kw_only=True):
    """The operating system, and this Python."""

    os: str
    """`linux`, `macos` or `windows`."""
    name: str
    """For display: `Debian GNU/Linux 12 (bookworm)`, `macOS 14.5`."""
    distributions: tuple[str, ...] = ()
    """Linux: the distribution and those it is derived from, such as `ubuntu` and `debian`."""
    arch: str
    """The architecture of this Python, `x86_64` or `aarch64`: under Rosetta it is not the processor's."""
    python: tuple[int, int]
    libc: str | None = None
    """`glibc` or `musl`; None on systems without that distinction."""
    libc_version: str | None = None
    apple_silicon: bool = False
    """Whether the processor is Apple's, whether or not Rosetta is in use."""
    rosetta: bool = False
    """Whether this Python is built for Intel and runs on Apple silicon through Rosetta."""
    frameworks: tuple[str, ...] = ()
    """macOS: which of Accelerate, CoreML and Metal exist."""
    source: str

    @property
    def platform(self) -> str:
        """The platform as locks and variants name it: `linux-aarch64`, `macos-arm64`."""
        return f"{self.os}-{'arm64' if (self.os, self.arch) == ('macos', 'aarch64') else self.arch}"


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """A library that was found."""

    name: str
    """`cudart`, `cublas`, `cudnn`; `openblas`, `mkl`."""
    version: str | None
    """As precise as its file name: `12`, or `12.4.5.8`."""
    path: str
    source: str
    """How it was found: a variable, the loader, a standard folder, a package."""
    headers: str | None = None
    """For a BLAS, the folder of the headers to build against."""

    @property
    def major(self) -> int | None:
        """The major version."""
        first = (self.version or "").partition(".")[0]
        return int(first) if first.isdecimal() else None


class Libraries(msgspec.Struct, frozen=True, kw_only=True):
    """The libraries of one kind, at most one per name and major version, in search order."""

    found: tuple[Library, ...] = ()
    notes: tuple[str, ...] = ()
    """Oddities met during the search, such as a variable that names no folder. One sentence each."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A build tool."""

    path: str
    source: str
    """How it was found: through a variable such as `CXX` or `PATH`, or a program such as `vswhere`."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """The build tools of this computer."""

    c: Tool | None = None
    cxx: Tool | None = None
    cmake: Tool | None = None


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a computer. An undetermined fact is None, and `unknown` says why."""

    system: System | None = None
    processor: Processor | None = None
    memory: Memory | None = None
    cuda_libraries: Libraries | None = None
    blas: Libraries | None = None
    tools: Tools | None = None
    gpus: Gpus = Gpus()
    unknown: Mapping[str, str] = {}
    """For each undetermined fact, by name, one sentence that says why."""
