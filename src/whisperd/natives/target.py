"""The target that determines which wheels a computer can use: its platform, Python and system libraries.

All of this is expressed by the compatibility tags that pip itself uses, so a lock needs no table of
its own, and a system that is too old, or built on musl, simply has none of the required tags.
"""

from __future__ import annotations

import functools
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging import tags

from whisperd.hardware import machine

__all__ = ["PLATFORMS", "PYTHONS", "Target", "platforms_of", "this_computer", "this_processor"]

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""The Python versions for which locks are made."""


@dataclass(frozen=True)
class Target:
    """A kind of computer with a Python."""

    platform: str
    """Such as `linux-x86_64`; one of `PLATFORMS`, or another that no lock supports."""
    python: str
    """Such as `cp311`, or `cp314t` for a free-threaded Python."""
    ranks: Mapping[tags.Tag, int] = field(repr=False, hash=False)
    """The tags that it accepts; the lower the rank, the better the wheel fits."""
    system: str = ""
    """Its system library or version, for display: `glibc 2.36`, `musl`, `macOS 14.5`."""

    @classmethod
    def known(cls, platform: str, python: str) -> Target:
        """Return the baseline computer of a platform with a Python such as `3.12`: locks are made for it."""
        version = tuple(int(part) for part in python.split("."))
        platform_tags = PLATFORMS[platform]
        abi = f"cp{python.replace('.', '')}"
        accepted = [
            *tags.cpython_tags(version, abis=[abi], platforms=platform_tags),
            *tags.compatible_tags(version, abi, platforms=platform_tags),
        ]
        return cls(platform, abi, _ranked(accepted))


@functools.cache
def this_computer() -> Target:
    """Return the target of the running interpreter."""
    accepted = list(tags.sys_tags())
    return Target(_platform_name(), accepted[0].abi, _ranked(accepted), _system(accepted))


@functools.cache
def this_processor() -> str:
    """Return the system's name for the kind of processor, since a compiler may build for exactly that."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = {line.replace("\t", "") for line in lines if line.startswith(_NAMES_A_PROCESSOR)}
    return "; ".join(sorted(named)) or platform.machine()


_NAMES_A_PROCESSOR = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU architecture", "CPU part")


def platforms_of(platform_tag: str) -> Iterator[str]:
    """Yield the names of the platforms that a wheel's platform tag supports, whatever the system version."""
    for name, pattern in _PLATFORM_TAGS.items():
        if platform_tag == "any" or re.fullmatch(pattern, platform_tag):
            yield name


_PLATFORM_TAGS = {
    "linux-x86_64": r"(many)?linux.*_x86_64",
    "linux-aarch64": r"(many)?linux.*_aarch64",
    "macos-arm64": r"macosx_.*_(arm64|universal2)",
    "macos-x86_64": r"macosx_.*_(x86_64|universal2)",
    "windows-x86_64": r"win_amd64",
}


def _manylinux(machine: str) -> list[str]:
    """Return the tags from glibc 2.28 (2018) down, the oldest that current builds of everything accept."""
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    oldest = 5 if machine == "x86_64" else 17
    found = []
    for minor in range(28, oldest - 1, -1):
        found.append(f"manylinux_2_{minor}_{machine}")
        if minor in legacy:
            found.append(f"{legacy[minor]}_{machine}")
    return found


PLATFORMS: Mapping[str, list[str]] = {
    "linux-x86_64": _manylinux("x86_64"),
    "linux-aarch64": _manylinux("aarch64"),
    "macos-arm64": list(tags.mac_platforms((14, 0), "arm64")),
    "macos-x86_64": list(tags.mac_platforms((13, 0), "x86_64")),
    "windows-x86_64": ["win_amd64"],
}
"""The platforms for which locks are made, with the platform tags of their baseline computer, best first."""


def _ranked(accepted: list[tags.Tag]) -> dict[tags.Tag, int]:
    ranks: dict[tags.Tag, int] = {}
    for rank, tag in enumerate(accepted):
        ranks.setdefault(tag, rank)
    return ranks


def _platform_name() -> str:
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    name = machine().lower()
    return f"{system}-{'x86_64' if name == 'amd64' else name}"


def _system(accepted: list[tags.Tag]) -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if sys.platform != "linux":
        return f"{platform.system()} {platform.release()}"
    if any(tag.platform.startswith("musllinux") for tag in accepted):
        return "musl"
    return " ".join(platform.libc_ver()).strip() or "an unknown C library"
