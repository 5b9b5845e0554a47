"""Search for newer versions of a bundle's distributions with pip, and make a lock of them.

The shipped lock is the root of trust: it names the distributions and the versions that may be chosen.
The hashes of the new lock are those of the files that the user's own index served in this search.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import anyio.to_thread
import msgspec
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from whisperd.decodable import decodable
from whisperd.natives.build import Build
from whisperd.natives.errors import not_upgradable, out_of_range
from whisperd.natives.lock import Distribution, Lock, Selection, format_lock
from whisperd.natives.lock_entries import measure_source, measure_wheel
from whisperd.natives.pip_runs import PipRuns
from whisperd.progress import Meter, OnProgress, Progress

__all__ = ["Search", "is_newer"]

_HEADING = """\
The native bundle {name}, as chosen by `whisperctl natives upgrade` for this computer."""


@dataclass(frozen=True)
class Search:
    """A search for newer versions of one bundle."""

    name: str
    """The bundle's name."""
    shipped: Lock
    current: Selection
    """The version in use."""
    stage: Path
    """An empty folder. Its owner removes it."""
    root: Path
    """The folder of all bundles."""
    on_progress: OnProgress

    @property
    def wheels(self) -> Path:
        """The folder of the wheels that were found."""
        return self.stage / "wheels"

    async def run(self, version: str | None) -> str | None:
        """Return the text of a lock with the newest versions, or with that version of the main distribution.

        None if that is the lock in use. Raises `native.not_upgradable`, `native.out_of_range`, and the errors
        of an installation.
        """
        version = self._checked(version)
        self.on_progress(Progress(name=self.name, detail="looking for newer versions"))
        if self.shipped.sources:
            await self._build.install_tools()
        found = await self._find(version)
        if not is_newer(found, self.current.versions, exactly=version is not None):
            return None
        for part in self._parts:
            await self._pip("download", "--dest", str(part.folder), part=part, versions=_exactly(found))
        return await anyio.to_thread.run_sync(self._lock)

    def _checked(self, version: str | None) -> str | None:
        """Return the requested version in pip's normal form."""
        versions = self.shipped.ranges.get(self.shipped.main)
        if versions is None:
            raise not_upgradable(self.name)
        if version is None:
            return None
        try:
            wanted = Version(version)
        except InvalidVersion:
            wanted = None
        if wanted is None or not SpecifierSet(versions).contains(wanted, prereleases=True):
            raise out_of_range(self.name, self.shipped.main, versions, version)
        return str(wanted)

    async def _find(self, version: str | None) -> dict[str, str]:
        """Return the version of each distribution that pip would install."""
        versions = _exactly(self.current.versions) | self.shipped.ranges
        if version is not None:
            versions |= _exactly({self.shipped.main: version})
        report = self.stage / "report.json"
        found: dict[str, str] = {}
        for part in self._parts:
            options = ("--dry-run", "--ignore-installed", "--report", str(report))
            await self._pip("install", *options, part=part, versions=versions)
            items = msgspec.json.decode(report.read_bytes(), type=decodable(_Report)).install
            found |= {canonicalize_name(item.metadata.name): item.metadata.version for item in items}
        return found

    async def _pip(self, action: str, *options: str, part: _Part, versions: Mapping[str, str]) -> None:
        """Run pip for the distributions of a part, with pip specifiers by name in `versions`."""
        await self._pips.run(
            action,
            *(*options, *(_BUILT if part.is_built else ())),
            requirements="".join(f"{name}{versions[name]}\n" for name in part.names),
            sizes_bytes={},
            tools=self._build.tool_paths() if part.is_built else None,
            require_hashes=False,
        )

    def _lock(self) -> str:
        """Return the lock of the downloaded files. Blocks."""
        tools = (Distribution(tool.name, tool.version, (tool.wheel,)) for tool in self.current.tools)
        lock = Lock(
            format=self.shipped.format,
            main=self.shipped.main,
            distributions=tuple(_distribution(path) for path in sorted(self.wheels.glob("*.whl"))),
            sources=tuple(map(measure_source, sorted(self._sources.glob("*")))),
            tools=tuple(tools),
        )
        return format_lock(lock, _HEADING.format(name=self.name))

    @property
    def _parts(self) -> list[_Part]:
        """The distributions that have wheels, and those that are built here, if there are any."""
        shipped = self.shipped
        wheels = _Part(sorted({each.name for each in shipped.distributions}), self.wheels, is_built=False)
        sources = _Part([each.name for each in shipped.sources], self._sources, is_built=True)
        return [part for part in (wheels, sources) if part.names]

    @property
    def _sources(self) -> Path:
        return self.stage / "sources"

    @functools.cached_property
    def _pips(self) -> PipRuns:
        return PipRuns(self.name, self.root, self.stage, Meter(self.name, self.on_progress))

    @property
    def _build(self) -> Build:
        return Build(self.current, self._pips, self.on_progress)


class _Part(NamedTuple):
    """Distributions that one run of pip handles, and the folder to which it downloads them."""

    names: list[str]
    folder: Path
    is_built: bool


_BUILT = ("--no-binary", ":all:", "--no-build-isolation")


class _Metadata(msgspec.Struct):
    name: str
    version: str


class _Item(msgspec.Struct):
    metadata: _Metadata


class _Report(msgspec.Struct):
    """The part of pip's report that is read."""

    install: list[_Item]


def _exactly(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: f"=={version}" for name, version in versions.items()}


def is_newer(found: Mapping[str, str], current: Mapping[str, str], *, exactly: bool) -> bool:
    """Whether the versions found should replace the current ones.

    A mirror may lack a version that is already installed, which is no reason to downgrade. With `exactly`,
    the user asked for a version, and any difference counts.
    """
    if exactly:
        return dict(found) != dict(current)
    both = [(Version(found[name]), Version(current[name])) for name in found if name in current]
    return any(new > old for new, old in both) and not any(new < old for new, old in both)


def _distribution(path: Path) -> Distribution:
    name, version = path.name.split("-")[:2]
    return Distribution(canonicalize_name(name), version, (measure_wheel(path),))
