"""Looking for newer versions of what a bundle holds: pip says what there is, and that becomes a lock.

The shipped lock is where trust begins: it names the distributions, and the versions that may be chosen.
The hashes of the new lock are those of the files that the user's own index served now.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import msgspec
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from whisperd.natives.build import Build
from whisperd.natives.errors import not_upgradable, out_of_range
from whisperd.natives.lock import Distribution, Lock, Selection, Source, format_lock
from whisperd.natives.measure import measure_source, measure_wheel, source_version
from whisperd.natives.pips import Pips
from whisperd.progress import Meter, OnProgress, Progress

__all__ = ["Search", "is_newer"]

_HEADING = """\
The native bundle {name}, as `whisperctl natives upgrade` has chosen it for this computer."""


@dataclass(frozen=True)
class Search:
    """Where is looked, and for what."""

    name: str
    """Of the bundle."""
    shipped: Lock
    current: Selection
    """What is used now."""
    stage: Path
    """An empty folder. Its owner removes it."""
    root: Path
    """Of the bundles."""
    on_progress: OnProgress

    @property
    def wheels(self) -> Path:
        """Where the wheels are that were found."""
        return self.stage / "wheels"

    async def run(self, version: str | None) -> str | None:
        """The text of the lock that has the newest versions, or that version of the main distribution.

        None if it is the one that is used now. Raises `native.not_upgradable`, `native.out_of_range`, and
        like an installation.
        """
        version = self._checked(version)
        temporary = self.stage / "tmp"
        temporary.mkdir()
        self.on_progress(Progress(name=self.name, detail="looking for newer versions"))
        pips = Pips(self.name, self.root, temporary, Meter(self.name, self.on_progress))
        if self.shipped.sources:
            await self._build(pips).install_tools()
        found = await self._find(pips, version)
        if not is_newer(found, self.current.versions, exactly=version is not None):
            return None
        await self._fetch(pips, found)
        return await anyio.to_thread.run_sync(self._lock)

    def _checked(self, version: str | None) -> str | None:
        """The version that is asked for, as pip writes it."""
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

    async def _find(self, pips: Pips, version: str | None) -> dict[str, str]:
        """The version of each distribution that pip would take."""

        def wanted(names: Iterable[str]) -> str:
            ranges = {name: self.shipped.ranges.get(name, f"=={self._now(name)}") for name in names}
            if version is not None and self.shipped.main in ranges:
                ranges[self.shipped.main] = f"=={version}"
            return "".join(f"{name}{versions}\n" for name, versions in ranges.items())

        found = await self._ask(pips, wanted(dict.fromkeys(each.name for each in self.shipped.distributions)))
        sources = wanted(source.name for source in self.shipped.sources)
        return found | await self._ask(pips, sources, *_BUILT, environment=self._tools_first(pips))

    async def _ask(
        self, pips: Pips, wanted: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        if not wanted:
            return {}
        report = self.stage / "report.json"
        await pips.run(
            "install",
            *("--dry-run", "--ignore-installed", "--report", str(report), *options),
            requirements=wanted,
            sizes_bytes={},
            environment=environment,
            require_hashes=False,
        )
        items = msgspec.json.decode(report.read_bytes(), type=_Report).install
        return {canonicalize_name(item.metadata.name): item.metadata.version for item in items}

    async def _fetch(self, pips: Pips, found: Mapping[str, str]) -> None:
        sources = {source.name for source in self.shipped.sources}
        wheels = "".join(f"{name}=={version}\n" for name, version in found.items() if name not in sources)
        if wheels:
            await self._download(pips, self.wheels, wheels)
        if sources:
            await self._download(
                pips,
                self._sources,
                "".join(f"{name}=={found[name]}\n" for name in sources),
                *_BUILT,
                environment=self._tools_first(pips),
            )

    async def _download(
        self,
        pips: Pips,
        folder: Path,
        wanted: str,
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        await pips.run(
            "download",
            *("--dest", str(folder), *options),
            requirements=wanted,
            sizes_bytes={},
            environment=environment,
            require_hashes=False,
        )

    def _lock(self) -> str:
        """The lock of what was fetched. Blocks."""
        tools = (Distribution(tool.name, tool.version, (tool.wheel,)) for tool in self.current.tools)
        lock = Lock(
            format=self.shipped.format,
            main=self.shipped.main,
            distributions=tuple(_distribution(path) for path in sorted(self.wheels.glob("*.whl"))),
            sources=tuple(_source(path) for path in sorted(self._sources.glob("*"))),
            tools=tuple(tools),
        )
        return format_lock(lock, _HEADING.format(name=self.name))

    @property
    def _sources(self) -> Path:
        return self.stage / "sources"

    def _build(self, pips: Pips) -> Build:
        return Build(self.name, self.current, self.stage, self.root, pips, self.on_progress)

    def _tools_first(self, pips: Pips) -> dict[str, str]:
        return {**os.environ, **self._build(pips).tool_paths()}

    def _now(self, name: str) -> str:
        return self.current.versions[name]


_BUILT = ("--no-binary", ":all:", "--no-build-isolation")


class _Metadata(msgspec.Struct):
    name: str
    version: str


class _Item(msgspec.Struct):
    metadata: _Metadata


class _Report(msgspec.Struct):
    """What is read of pip's report."""

    install: list[_Item]


def is_newer(found: Mapping[str, str], current: Mapping[str, str], *, exactly: bool) -> bool:
    """Whether what was found should take the place of what is there.

    A mirror may lack what is there already: that is no reason to go back. With `exactly`, somebody has asked
    for a version, and any difference counts.
    """
    if exactly:
        return dict(found) != dict(current)
    both = [(Version(found[name]), Version(current[name])) for name in found if name in current]
    return any(new > old for new, old in both) and not any(new < old for new, old in both)


def _distribution(path: Path) -> Distribution:
    name, version = path.name.split("-")[:2]
    return Distribution(canonicalize_name(name), version, (measure_wheel(path),))


def _source(path: Path) -> Source:
    version = source_version(path.name)
    return measure_source(canonicalize_name(path.name.partition(f"-{version}")[0]), version, path)
