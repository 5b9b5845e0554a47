"""Build the sources of a lock on this computer, with pip, the pinned tools and a compiler.

Everything happens in the staging folder of an installation. If a build fails, its log is kept.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import anyio.to_thread
import psutil

from whisperd.child import open_child, python_command
from whisperd.hardware import usable_cores
from whisperd.natives.build_failures import why_build_failed
from whisperd.natives.errors import build_failed, disk_full
from whisperd.natives.lock import Selection, Source, requirements
from whisperd.natives.manifest import sha256
from whisperd.natives.pip_runs import PipRuns
from whisperd.pip import Pip, open_pip
from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError

__all__ = ["Build", "build_environment"]

_NICENESS = 10
_REPAIR = "repairwheel"
_SAID_LINES = 15


@dataclass(frozen=True)
class Build:
    """The build of a bundle's sources."""

    selection: Selection
    pips: PipRuns
    """Everything happens in their `stage`; the log of a failed build is kept in `.logs` in their `folder`."""
    on_progress: OnProgress

    @property
    def log(self) -> Path:
        """The log of the last build of this bundle, which exists if it failed."""
        return self.pips.folder / ".logs" / f"{self.pips.name}.log"

    async def run(self, wheels: Path) -> str:
        """Build the wheels into a folder; return the requirements for them.

        Raises `native.build_failed`, and the errors of an installation.
        """
        await self.install_tools()
        sources = self.pips.stage / "sources"
        await self.pips.run(
            "download",
            *("--no-binary", ":all:", "--no-build-isolation", "--dest", str(sources)),
            requirements=requirements(self.selection.sources),
            sizes_bytes={source.name: source.size_bytes for source in self.selection.sources},
            tools=self.tool_paths(),
        )
        with self._kept_log() as log:
            lines = [await self._build(source, sources, wheels, log) for source in self.selection.sources]
        return "".join(lines)

    async def install_tools(self) -> None:
        """Install the tools that the lock names."""
        tools = self.selection.tools
        await self.pips.run(
            "install",
            *("--target", str(self._tools), "--no-compile"),
            requirements=requirements(tools),
            sizes_bytes={pinned.name: pinned.wheel.size_bytes for pinned in tools},
        )

    def environment(self) -> dict[str, str]:
        """Return the build's environment: the tools first, and only those user variables that it needs."""
        variables = {**self.selection.build, **self.tool_paths()}
        return build_environment(os.environ, variables, platform=sys.platform)

    def tool_paths(self) -> dict[str, str]:
        """Return the variables that put the tools first."""
        return {
            "PATH": os.pathsep.join([str(self._tools / "bin"), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(self._tools),
            # The stage may be inside a git repository, whose state must not influence the build.
            "GIT_CEILING_DIRECTORIES": str(self.pips.stage),
        }

    @property
    def _tools(self) -> Path:
        return self.pips.stage / "tools"

    async def _build(self, source: Source, sources: Path, wheels: Path, log: TextIO) -> str:
        """Build one wheel; return the requirement for it."""
        built = self.pips.stage / f"built-{source.name}"
        where = (sources / source.file).as_uri()
        async with open_pip(
            "wheel",
            *("--verbose", "--no-index", "--no-binary", ":all:", "--no-build-isolation", "--no-cache-dir"),
            *("--wheel-dir", str(built)),
            requirements=f"{source.name} @ {where} --hash=sha256:{source.sha256}\n",
            temporary=self.pips.temporary,
            environment=self.environment(),
        ) as pip:
            _lower_priority(pip)
            await self._follow(pip, log)
        wheel = _only_wheel(built)
        if any(tool.name == _REPAIR for tool in self.selection.tools):
            wheel = await self._repair(wheel, self.pips.stage / f"repaired-{source.name}", log)
        digest = await anyio.to_thread.run_sync(_move_wheel, wheel, wheels)
        return f"{source.name}=={source.version} --hash=sha256:{digest}\n"

    async def _follow(self, pip: Pip, log: TextIO) -> None:
        self._report(0, 0)
        lines: list[str] = []
        async for line in pip.lines():
            log.write(f"{line}\n")
            lines.append(line)
            if step := _STEP.match(line):
                self._report(int(step[1]), int(step[2]))
        if not await pip.succeeded():
            raise self._failure(lines)

    async def _repair(self, wheel: Path, repaired: Path, log: TextIO) -> Path:
        """Copy the libraries that the wheel needs into it, so that workers load none of the system's."""
        command = python_command("whisperd.child", _REPAIR, str(wheel), "--output-dir", str(repaired))
        command += [option for folder in library_folders(os.environ) for option in ("--lib-dir", folder)]
        async with open_child(command, env=self.environment(), stderr=subprocess.STDOUT) as process:
            pip = Pip(process)
            lines = [line async for line in pip.lines()]
            log.writelines(f"{line}\n" for line in lines)
            if not await pip.succeeded():
                raise self._failure(lines)
        return _only_wheel(repaired)

    def _report(self, step: int, steps: int) -> None:
        file = f"step {step} of {steps}" if steps else None
        self.on_progress(
            Progress(name=self.pips.name, file=file, done=step, total=steps or None, detail="building")
        )

    def _failure(self, lines: Sequence[str]) -> WhisperdError:
        if any(_NO_ROOM.search(line) for line in lines):
            return disk_full(self.pips.name, self.pips.folder)
        said = [line for line in lines if line.strip()][-_SAID_LINES:]
        return build_failed(self.pips.name, *why_build_failed(lines, sys.platform), said, self.log)

    @contextmanager
    def _kept_log(self) -> Iterator[TextIO]:
        """Open a log file for the build, which is kept if the build fails."""
        path = self.pips.stage / "build.log"
        try:
            with path.open("w", encoding="utf-8") as log:
                yield log
        except WhisperdError:
            self.log.parent.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(path, self.log)
            raise
        else:
            self.log.unlink(missing_ok=True)


_STEP = re.compile(r"\s*\[(\d{1,6})/(\d{1,6})\] ")  # of ninja
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded")

_KEPT_VARIABLES = (
    *("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "LD_LIBRARY_PATH"),
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CPATH", "LIBRARY_PATH"),
    *("CMAKE_PREFIX_PATH", "PKG_CONFIG_PATH", "MKLROOT", "OPENBLAS_PATH"),
    *("SDKROOT", "DEVELOPER_DIR", "MACOSX_DEPLOYMENT_TARGET"),
)


def build_environment(
    environment: Mapping[str, str], variables: Mapping[str, str], *, platform: str
) -> dict[str, str]:
    """Return a build's environment: the user's variables that a compiler needs, and the build's own.

    A build script may interpret any variable as one of its settings, and its output is kept in a log. So it
    gets no variables meant for other programs, such as an index password. On Windows it gets nearly all,
    because compilers there need too many.
    """
    kept = (
        dict(environment)
        if platform == "win32"
        else {name: environment[name] for name in _KEPT_VARIABLES if name in environment}
    )
    kept = {name: value for name, value in kept.items() if not name.startswith(("PIP_", "CMAKE_ARGS"))}
    for prefix in library_prefixes(environment):
        _prepend(kept, "CMAKE_PREFIX_PATH", prefix)
        _prepend(kept, "CPATH", f"{prefix}/include")
        for folder in (f"{prefix}/lib", f"{prefix}/lib64"):
            _prepend(kept, "LIBRARY_PATH", folder)
            _prepend(kept, "PKG_CONFIG_PATH", f"{folder}/pkgconfig")
            if platform == "linux" and " " not in folder:  # for its own dependencies, such as libgfortran
                _prepend(kept, "LDFLAGS", f"-Wl,-rpath-link,{folder}", " ")
    parallel = {"CMAKE_BUILD_PARALLEL_LEVEL": str(usable_cores())}
    return {**kept, **parallel, **variables}


def library_prefixes(environment: Mapping[str, str]) -> list[str]:
    """Return the folders of OpenBLAS or MKL that the user's variables name."""
    return [environment[name] for name in ("MKLROOT", "OPENBLAS_PATH") if environment.get(name)]


def library_folders(environment: Mapping[str, str]) -> list[str]:
    """Return the library folders below `library_prefixes`."""
    return [f"{prefix}/{each}" for prefix in library_prefixes(environment) for each in ("lib", "lib64")]


def _prepend(variables: dict[str, str], name: str, value: str, separator: str = os.pathsep) -> None:
    variables[name] = separator.join(filter(None, [value, variables.get(name)]))


def _lower_priority(pip: Pip) -> None:
    """Lower the priority of a build, which takes minutes, below everything else on this computer."""
    with suppress(psutil.Error):
        if sys.platform == "win32":
            psutil.Process(pip.pid).nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            psutil.Process(pip.pid).nice(_NICENESS)


def _only_wheel(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def _move_wheel(wheel: Path, folder: Path) -> str:
    """Move a wheel into a folder; return its hash."""
    folder.mkdir(exist_ok=True)
    return sha256(wheel.replace(folder / wheel.name))
