"""Probes for detection: files, folders, variables, and the output of other programs.

All detection takes `Probes`, so that a test can pass a recording of another computer. `probes_here` probes
this one. It may block for long, since a folder that a variable names may be on a dead network drive.
"""

from __future__ import annotations

import functools
import ntpath
import os
import platform
import posixpath
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import psutil

from whisperd.child import how_it_ended
from whisperd.hardware.files import read_file
from whisperd.hardware.memory import Memory, system_memory

__all__ = ["ProbeFailed", "Probes", "affinity", "machine", "probes_here", "run_program"]

COMMAND_TIMEOUT_S: Final = 3.0
"""The time limit of other programs. Each of them only looks something up."""


class ProbeFailed(Exception):
    """A probe failed; the text says why, as a clause without a full stop."""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """The probes of one computer."""

    platform: str
    """The value of `sys.platform`: `linux`, `darwin`, `win32`."""
    machine: str
    """The kernel's name for the architecture of this process: `x86_64`, `AMD64`, `arm64`, `aarch64`."""
    release: str
    """The version of the kernel; on macOS and Windows that of the system."""
    python: tuple[int, int]
    libc: str | None
    """The C library's name and version, such as `glibc 2.36`; None if it reports none."""
    env: Mapping[str, str]
    cpu_count: int
    affinity: int | None
    """How many of them the scheduler allows this process; None on systems without such a limit."""
    physical_count: Callable[[], int | None]
    """Returns the number of physical cores; None if the system does not report it."""
    memory: Callable[[], Memory]
    """Returns the memory of the whole computer."""
    site_folders: tuple[str, ...]
    """The package folders of this Python."""
    native_folder: str | None
    """The folder of the native bundles."""
    read: Callable[[str], str | None]
    """Returns the text of a file; None if it cannot be read."""
    names: Callable[[str], Sequence[str]]
    """Lists the names in a folder; empty if it cannot be read."""
    run: Callable[[Sequence[str]], str]
    """Returns the output of a program. Raises `ProbeFailed`."""
    has_feature: Callable[[int], bool]
    """Windows: `IsProcessorFeaturePresent`."""
    registry: Callable[[str, str], str | None]
    """Windows: the text of a value under `HKEY_LOCAL_MACHINE`."""

    @property
    def arch(self) -> str:
        """The normalised name of the architecture: `x86_64`, `aarch64`, or else the kernel's name."""
        machine = self.machine.lower()
        return {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(machine, machine)

    def join(self, *parts: str) -> str:
        """Join the parts of a path as that system does."""
        return str(self._path.join(*parts))

    def parent(self, path: str) -> str:
        """Return the folder that contains a path."""
        return str(self._path.dirname(path))

    def folders(self, variable: str) -> list[str]:
        """Return the folders that a variable such as `PATH` lists."""
        return [folder for folder in self.env.get(variable, "").split(self._path.pathsep) if folder]

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists."""
        folder, name = self._path.split(self._path.normpath(path))
        return name in self.names(folder) if name else bool(self.names(folder))

    def program(self, *names: str) -> str | None:
        """Return the path of the first of these programs that exists, as an absolute path or in `PATH`."""
        suffix = ".exe" if self.platform == "win32" else ""
        listed = [(folder, set(self.names(folder))) for folder in self.folders("PATH")]
        for name in names:
            file = name if name.endswith(suffix) else f"{name}{suffix}"
            if self._path.isabs(file):
                if self.exists(file):
                    return file
                continue
            for folder, there in listed:
                if file in there:
                    return self.join(folder, file)
        return None

    @property
    def _path(self) -> ModuleType:
        return ntpath if self.platform == "win32" else posixpath


def probes_here(native_folder: str | None) -> Probes:
    """Return the probes of this computer, as this process sees it. They cache their results.

    `native_folder` is the folder of the native bundles.
    """
    import site

    return Probes(
        platform=sys.platform,
        machine=machine(),
        release=_release(),
        python=sys.version_info[:2],
        libc=_libc(),
        env=os.environ,
        cpu_count=os.cpu_count() or 1,
        affinity=affinity(),
        physical_count=lambda: psutil.cpu_count(logical=False),
        memory=system_memory,
        site_folders=tuple(dict.fromkeys([*site.getsitepackages(), site.getusersitepackages()])),
        native_folder=native_folder,
        read=read_file,
        names=functools.cache(_names),
        run=functools.cache(run_program),
        has_feature=_has_feature,
        registry=_registry,
    )


def machine() -> str:
    """Return the kernel's name for the architecture of this process.

    A 32-bit Python may run on a 64-bit kernel, as on many Raspberry Pis.
    """
    name = platform.machine()
    return name if sys.maxsize > 2**32 else {"x86_64": "i686", "aarch64": "armv7l"}.get(name, name)


def affinity() -> int | None:
    """Return how many cores the scheduler allows this process; None on systems without such a limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def run_program(command: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Return the output of a program. Raises `ProbeFailed` if it hangs, fails or does not exist."""
    name = command[0]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise ProbeFailed(f"`{name}` did not finish within {timeout_s:g} seconds") from None
    except subprocess.CalledProcessError as error:
        raise ProbeFailed(f"`{name}` failed ({how_it_ended(error.returncode)})") from error
    except OSError as error:
        raise ProbeFailed(f"`{name}` could not be started ({error.strerror or error})") from error
    return done.stdout.decode(errors="replace")


def _release() -> str:
    if sys.platform == "win32":
        return platform.version()
    return platform.mac_ver()[0] if sys.platform == "darwin" else platform.release()


def _libc() -> str | None:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") if hasattr(os, "confstr") else None
    except (OSError, ValueError):  # musl does not know the name
        return None


def _names(folder: str) -> Sequence[str]:
    try:
        return os.listdir(folder or os.curdir)  # noqa: PTH208 - only the names are needed
    except (OSError, ValueError):  # a variable may hold a null character
        return ()


def _has_feature(number: int) -> bool:
    if sys.platform == "win32":
        import ctypes

        return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(number))
    else:
        return False


def _registry(key: str, value: str) -> str | None:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                return str(winreg.QueryValueEx(opened, value)[0])
        except OSError:
            return None
    else:
        return None
