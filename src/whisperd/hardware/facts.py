"""What is known of a computer. Each fact says how it was found; what could not be found out says why."""

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
    """How many cores there are, and how many of them this process may use."""

    physical: int | None
    """None where the system does not tell."""
    logical: int
    affinity: int | None = None
    """How many the scheduler allows, None if it has no limit for this process."""
    quota: float | None = None
    """How many cores' time a control group allows, None without a limit."""

    @property
    def usable(self) -> int:
        """How many threads can compute at once. A part of a core is worth a thread."""
        allowed = min(self.logical, self.affinity or self.logical)
        return max(1, allowed if self.quota is None else min(allowed, math.ceil(self.quota)))


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """The processor."""

    vendor: str | None = None
    model: str | None = None
    features: tuple[str, ...]
    """Of `CPU_FEATURES`, in their order: what every core can do."""
    cores: Cores
    source: str
    """Where this was read."""


class System(msgspec.Struct, frozen=True, kw_only=True):
    """The system, and this Python's place in it."""

    os: str
    """`linux`, `macos` or `windows`."""
    name: str
    """For people: `Debian GNU/Linux 12 (bookworm)`, `macOS 14.5`."""
    distributions: tuple[str, ...] = ()
    """Linux: what it is and what it is like, such as `ubuntu` and `debian`."""
    arch: str
    """`x86_64` or `aarch64`, of this Python: under Rosetta it is not the processor's."""
    python: tuple[int, int]
    libc: str | None = None
    """`glibc` or `musl`; None where it has no such choice."""
    libc_version: str | None = None
    apple_silicon: bool = False
    """Whether the processor is Apple's own, Rosetta or not."""
    rosetta: bool = False
    """Whether this Python is one for Intel that Apple's processor runs in translation."""
    frameworks: tuple[str, ...] = ()
    """macOS: those of Accelerate, CoreML and Metal that there are."""
    source: str

    @property
    def platform(self) -> str:
        """As locks and variants name it: `linux-aarch64`, `macos-arm64`."""
        return f"{self.os}-{'arm64' if (self.os, self.arch) == ('macos', 'aarch64') else self.arch}"


class Library(msgspec.Struct, frozen=True, kw_only=True):
    """A library that was found."""

    name: str
    """`cudart`, `cublas`, `cudnn`; `openblas`, `mkl`."""
    version: str | None
    """As far as its file name tells: `12`, or `12.4.5.8`."""
    path: str
    source: str
    """What led to it: a variable, the loader, a standard folder, a package."""
    headers: str | None = None
    """Of a BLAS, the folder of what a compiler needs to build against it."""

    @property
    def major(self) -> int | None:
        """The first number of its version."""
        first = (self.version or "").partition(".")[0]
        return int(first) if first.isdecimal() else None


class Libraries(msgspec.Struct, frozen=True, kw_only=True):
    """The libraries of one kind, one of each name and major version, in the order in which they are found."""

    found: tuple[Library, ...] = ()
    notes: tuple[str, ...] = ()
    """What is odd about where they were looked for: a variable that names no folder. One sentence each."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A program for building."""

    path: str
    source: str
    """What led to it: a variable such as `CXX` or `PATH`, or a program that knows."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What is there to build a library with."""

    c: Tool | None = None
    cxx: Tool | None = None
    cmake: Tool | None = None


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a computer. A fact that could not be found out is None, and `unknown` says why."""

    system: System | None = None
    processor: Processor | None = None
    memory: Memory | None = None
    cuda_libraries: Libraries | None = None
    blas: Libraries | None = None
    tools: Tools | None = None
    gpus: Gpus = Gpus()
    unknown: Mapping[str, str] = {}
    """By the name of the fact, one sentence."""
