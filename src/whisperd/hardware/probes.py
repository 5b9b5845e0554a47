"""How a computer is looked at: files, folders, variables, and what other programs say.

Everything that looks takes `Probes`, and a test gives it a recording of another computer's. `probes_here`
looks at this one. It may block for long, for a folder that a variable names may lie on a dead network drive.
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

__all__ = ["ProbeFailed", "Probes", "affinity", "probes_here", "run_program"]

COMMAND_TIMEOUT_S: Final = 3.0
"""What other programs are given to answer. Each of them only looks something up."""


class ProbeFailed(Exception):
    """Something could not be looked at; the text says why, as the rest of a sentence."""


@dataclass(frozen=True, kw_only=True)
class Probes:
    """What there is to look at."""

    platform: str
    """As `sys.platform` has it: `linux`, `darwin`, `win32`."""
    machine: str
    """As the kernel calls the architecture of this process: `x86_64`, `AMD64`, `arm64`, `aarch64`."""
    release: str
    """The version of the kernel; on macOS and Windows that of the system."""
    python: tuple[int, int]
    libc: str | None
    """What the C library says of itself, such as `glibc 2.36`; None for one that says nothing."""
    env: Mapping[str, str]
    cpu_count: int
    affinity: int | None
    """How many of them the scheduler gives this process; None where it has no such limit."""
    physical_count: Callable[[], int | None]
    """How many physical cores there are; None where the system does not tell."""
    memory: Callable[[], Memory]
    """The memory of the whole computer."""
    site_folders: tuple[str, ...]
    """Where this Python has its packages."""
    native_folder: str | None
    """Where the native bundles are."""
    read: Callable[[str], str | None]
    """The text of a file; None if it cannot be read."""
    names: Callable[[str], Sequence[str]]
    """What is in a folder; nothing if it cannot be read."""
    run: Callable[[Sequence[str]], str]
    """What a program prints. Raises `ProbeFailed`."""
    has_feature: Callable[[int], bool]
    """Windows: `IsProcessorFeaturePresent`."""
    registry: Callable[[str, str], str | None]
    """Windows: the text of a value under `HKEY_LOCAL_MACHINE`."""

    @property
    def arch(self) -> str:
        """The architecture by its one name here: `x86_64`, `aarch64`, or what the kernel says."""
        machine = self.machine.lower()
        return {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}.get(machine, machine)

    def join(self, *parts: str) -> str:
        """A path as that system writes it."""
        return str(self._path.join(*parts))

    def parent(self, path: str) -> str:
        """The folder that something is in."""
        return str(self._path.dirname(path))

    def folders(self, variable: str) -> list[str]:
        """The folders that a variable such as `PATH` lists."""
        return [folder for folder in self.env.get(variable, "").split(self._path.pathsep) if folder]

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        folder, name = self._path.split(self._path.normpath(path))
        return name in self.names(folder) if name else bool(self.names(folder))

    def program(self, *names: str) -> str | None:
        """Where the first of these programs is, by its path or in the folders of `PATH`."""
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
    """This computer, as this process may see it. What was looked at once is not looked at again.

    `native_folder` is where the native bundles are.
    """
    import site

    return Probes(
        platform=sys.platform,
        machine=platform.machine(),
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


def affinity() -> int | None:
    """How many cores the scheduler gives this process; None where it has no such limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def run_program(command: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """What a program prints. Raises `ProbeFailed` for one that hangs, fails or is not there."""
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
        raise ProbeFailed(f"`{name}` does not answer within {timeout_s:g} seconds") from None
    except subprocess.CalledProcessError as error:
        raise ProbeFailed(f"`{name}` fails ({how_it_ended(error.returncode)})") from error
    except OSError as error:
        raise ProbeFailed(f"`{name}` cannot be started ({error.strerror or error})") from error
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
        return os.listdir(folder or os.curdir)  # noqa: PTH208 - names are all that is wanted
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
