"""Detect the operating system: its name, its C library, Apple's frameworks, Rosetta."""

from __future__ import annotations

import shlex
from typing import Final

from whisperd.hardware.facts import System
from whisperd.hardware.probes import ProbeFailed, Probes
from whisperd.hardware.processor import parse_sysctl

__all__ = ["find_system"]

OS_RELEASE: Final = ("/etc/os-release", "/usr/lib/os-release")
SYSCTL: Final = ("/usr/sbin/sysctl", "-i", "hw.optional.arm64", "sysctl.proc_translated")
FRAMEWORKS: Final = ("Accelerate", "CoreML", "Metal")
FRAMEWORKS_FOLDER: Final = "/System/Library/Frameworks"


def find_system(probes: Probes) -> System:
    """Detect the operating system."""
    look = {"darwin": _macos, "win32": _windows}.get(probes.platform, _linux)
    return look(probes)


def _linux(probes: Probes) -> System:
    release = _os_release(probes)
    libc, _, version = (probes.libc or "").partition(" ")
    has_musl = any(name.startswith("ld-musl-") for name in probes.names("/lib"))
    name = release.get("PRETTY_NAME") or "Linux"
    return System(
        os=probes.platform,
        name=f"{name}, kernel {probes.release}",
        distributions=tuple(f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".split()),
        arch=probes.arch,
        python=probes.python,
        libc=libc or ("musl" if has_musl else None),
        libc_version=version or None,
        source="uname, /etc/os-release and the C library",
    )


def _macos(probes: Probes) -> System:
    try:
        values = parse_sysctl(probes.run(SYSCTL))
    except ProbeFailed:
        values = {}
    there = set(probes.names(FRAMEWORKS_FOLDER))
    is_arm = probes.arch == "aarch64"
    return System(
        os="macos",
        name=f"macOS {probes.release}",
        arch=probes.arch,
        python=probes.python,
        apple_silicon=is_arm or values.get("hw.optional.arm64") == "1",
        rosetta=not is_arm and values.get("sysctl.proc_translated") == "1",
        frameworks=tuple(name for name in FRAMEWORKS if f"{name}.framework" in there),
        source=f"uname, sysctl and {FRAMEWORKS_FOLDER}",
    )


def _windows(probes: Probes) -> System:
    return System(
        os="windows",
        name=f"Windows {probes.release}",
        arch=probes.arch,
        python=probes.python,
        source="the system's version",
    )


def _os_release(probes: Probes) -> dict[str, str]:
    """Return the values of the `os-release` file; from a damaged one, those that can be read."""
    text = next((text for path in OS_RELEASE if (text := probes.read(path))), "")
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        try:
            values[name.strip()] = " ".join(shlex.split(value))
        except ValueError:  # an unclosed quote
            continue
    return values
