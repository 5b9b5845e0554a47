"""Lock files: the contents of a bundle, each file pinned by its hash. Pure; reads and writes only text.

A lock file is TOML. It lists each wheel once, with the compatibility tag of its file name. A
computer selects wheels as pip does: the newest version that it can use, and of that the wheel
that fits best. A distribution that is built on the computer is listed as a source, with the tools
to build it. The ranges are the versions that an upgrade may choose from.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, parse_tag
from packaging.version import Version

from whisperd.decodable import decodable
from whisperd.natives.target import PLATFORMS, PYTHONS, Target, platforms_of
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "Distribution",
    "Lock",
    "Pinned",
    "Selection",
    "Source",
    "Wheel",
    "format_lock",
    "parse_lock",
    "requirements",
]

_FORMAT = 1
_DIGEST_LENGTH = 8

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
VersionText = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-z.!+]+$")]
TagText = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_.]+-[a-z0-9_.]+-[a-z0-9_.]+$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*\.(tar\.gz|zip)$")]
SizeBytes = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class Wheel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One wheel; one row in a lock file."""

    tag: TagText
    """The end of its file name, which says where it can be used: `cp312-abi3-win_amd64`."""
    size_bytes: SizeBytes
    unpacked_bytes: SizeBytes
    sha256: Sha256

    def tags(self) -> frozenset[Tag]:
        """Return the compatibility tags that its tag expands to."""
        return parse_tag(self.tag)


class Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of a distribution, and its wheels."""

    name: Name
    version: VersionText
    wheels: tuple[Wheel, ...]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source distribution, from which each computer builds its own wheel."""

    name: Name
    version: VersionText
    file: FileName
    size_bytes: SizeBytes
    unpacked_bytes: SizeBytes
    sha256: Sha256

    @property
    def requirement(self) -> str:
        """The line of a requirements file that requires exactly this file."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


class Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of a bundle for every computer."""

    format: int
    main: Name
    """The distribution whose version is the version of the bundle."""
    distributions: tuple[Distribution, ...] = ()
    sources: tuple[Source, ...] = ()
    """The distributions built on the computer itself, one version of each."""
    tools: tuple[Distribution, ...] = ()
    """The tools that build the sources; not part of the bundle."""
    ranges: dict[Name, str] = {}
    """The versions that an upgrade may choose from, as pip specifiers; if empty, it cannot be upgraded."""

    def select(self, target: Target) -> Selection:
        """Return the files for a target. Raises `native.unsupported` if a distribution has none."""
        return Selection(
            self.main,
            target.python,
            # The main one first, so that it is the one reported if several are missing.
            _best_of_each(sorted(self.distributions, key=lambda each: each.name != self.main), target),
            self.sources,
            _best_of_each(self.tools, target),
        )


@dataclass(frozen=True)
class Pinned:
    """A selected wheel, with the name and version of its distribution."""

    name: str
    version: str
    wheel: Wheel

    @property
    def requirement(self) -> str:
        """The line of a requirements file that requires exactly this wheel."""
        return f"{self.name}=={self.version} --hash=sha256:{self.wheel.sha256}"


@dataclass(frozen=True)
class Selection:
    """The files of a bundle for one target."""

    main: str
    python: str
    pinned: tuple[Pinned, ...]
    sources: tuple[Source, ...] = ()
    tools: tuple[Pinned, ...] = ()
    build: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Variables for building the sources."""
    processor: str = ""
    """The processor for which the sources are built."""

    @functools.cached_property
    def versions(self) -> dict[str, str]:
        """The version of each distribution in the bundle."""
        held: list[Pinned | Source] = [*self.pinned, *self.sources]
        return {each.name: each.version for each in held}

    @property
    def version(self) -> str:
        """The version of the bundle."""
        return self.versions[self.main]

    @functools.cached_property
    def digest(self) -> str:
        """A hash over all its inputs: two selections with the same digest are the same bundle."""
        used: list[Pinned | Source] = [*self.pinned, *self.sources, *self.tools]
        lines = [each.requirement for each in used]
        if self.sources:
            lines += [f"{name}={value}" for name, value in self.build.items()]
            lines.append(f"for {self.processor}")
        return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """Its folder, such as `4.8.5-cp311-1a2b3c4d`: bundles of several Pythons and locks coexist."""
        return f"{self.version}-{self.python}-{self.digest[:_DIGEST_LENGTH]}"

    @property
    def download_bytes(self) -> int:
        """How much pip downloads if its cache has none of the files."""
        return sum(self.sizes_bytes.values())

    @functools.cached_property
    def sizes_bytes(self) -> dict[str, int]:
        """How much pip downloads, by the name of the distribution."""
        wheels = {pinned.name: pinned.wheel.size_bytes for pinned in (*self.pinned, *self.tools)}
        return {**wheels, **{source.name: source.size_bytes for source in self.sources}}

    @property
    def required_bytes(self) -> int:
        """The most disk space that installing takes: the files, their content, compiled modules."""
        unpacked_bytes = sum(each.wheel.unpacked_bytes for each in (*self.pinned, *self.tools))
        # Measured: the output of a build takes up to twice the size of its source.
        built_bytes = sum(3 * source.unpacked_bytes for source in self.sources)
        return self.download_bytes + unpacked_bytes * 11 // 10 + built_bytes


def requirements(wanted: Iterable[Pinned | Source]) -> str:
    """Return the requirements file for pip that requires exactly these files."""
    return "".join(f"{each.requirement}\n" for each in wanted)


@functools.cache
def parse_lock(text: str) -> Lock:
    """Parse a lock file strictly. Raises `native.bad_lock`."""
    try:
        lock = msgspec.toml.decode(text, type=decodable(Lock))
        held: list[Distribution | Source] = [*lock.distributions, *lock.sources]
        for each in (*held, *lock.tools):
            Version(each.version)
        for name, versions in lock.ranges.items():
            if "@" in versions or ";" in versions or not str(SpecifierSet(versions)):
                raise _bad_lock(f"{versions!r} is not a version range of {name}")
    except (ValueError, RecursionError) as error:
        raise _bad_lock(str(error)) from error
    if lock.format != _FORMAT:
        raise _bad_lock(f"its format is {lock.format}, not {_FORMAT}")
    if lock.main not in {each.name for each in held}:
        raise _bad_lock(f"it lacks its main distribution {lock.main}")
    return lock


def format_lock(lock: Lock, heading: str) -> str:
    """Return the text of a lock file. The same lock always gives the same text."""
    lines = [*(f"# {line}".rstrip() for line in heading.splitlines()), ""]
    lines += [f"format = {lock.format}", f'main = "{lock.main}"']
    if lock.ranges:
        lines += ["", "[ranges]", *(f'{name} = "{lock.ranges[name]}"' for name in sorted(lock.ranges))]
    for source in sorted(lock.sources, key=lambda each: each.name):
        fields = msgspec.structs.asdict(source).items()
        lines += ["", "[[sources]]"]
        lines += [
            f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"' for key, value in fields
        ]
    lines += _format_distributions("distributions", lock.distributions)
    lines += _format_distributions("tools", lock.tools)
    return "\n".join(lines) + "\n"


def _format_distributions(table: str, distributions: Iterable[Distribution]) -> list[str]:
    lines = []
    for distribution in sorted(_newest_first(distributions), key=lambda each: each.name):
        lines += ["", f"[[{table}]]", f'name = "{distribution.name}"']
        lines += [f'version = "{distribution.version}"', "wheels = [", _COLUMNS]
        for wheel in sorted(distribution.wheels, key=lambda wheel: wheel.tag):
            lines.append(f'  ["{wheel.tag}", {wheel.size_bytes}, {wheel.unpacked_bytes}, "{wheel.sha256}"],')
        lines.append("]")
    return lines


_COLUMNS = "  # tag, bytes, bytes when unpacked, SHA-256"


def _newest_first(distributions: Iterable[Distribution]) -> list[Distribution]:
    return sorted(distributions, key=lambda each: Version(each.version), reverse=True)


def _best_of_each(distributions: Sequence[Distribution], target: Target) -> tuple[Pinned, ...]:
    names = dict.fromkeys(distribution.name for distribution in distributions)
    chosen = []
    for name in names:
        offered = [distribution for distribution in distributions if distribution.name == name]
        pinned = _best(offered, target)
        if pinned is None:
            raise _unsupported(name, offered, target)
        chosen.append(pinned)
    return tuple(chosen)


def _best(offered: Sequence[Distribution], target: Target) -> Pinned | None:
    """Return the best wheel of the newest version that has one for the target."""
    for distribution in _newest_first(offered):
        ranked = [
            (rank, wheel) for wheel in distribution.wheels if (rank := _rank(wheel, target)) is not None
        ]
        if ranked:
            best = min(ranked, key=lambda pair: pair[0])[1]
            return Pinned(distribution.name, distribution.version, best)
    return None


def _rank(wheel: Wheel, target: Target) -> int | None:
    return min((target.ranks[tag] for tag in wheel.tags() if tag in target.ranks), default=None)


def _unsupported(name: str, offered: Sequence[Distribution], target: Target) -> WhisperdError:
    """Return `native.unsupported` with the first of platform, Python and system that does not fit."""
    tags = [tag for distribution in offered for wheel in distribution.wheels for tag in wheel.tags()]
    here = [tag for tag in tags if target.platform in platforms_of(tag.platform)]
    fitting = [tag for tag in here if _python_fits(tag, target)]
    if not here:
        reason = f"there is no build of {name} for {target.platform}"
        served = sorted({platform for tag in tags for platform in platforms_of(tag.platform)})
        fix = f"Use another kind of computer ({', '.join(served)}), or another variant."
    elif not fitting:
        reason = f"there is no build of {name} for Python {target.python} on {target.platform}"
        pythons = [python for python in PYTHONS if _serves(offered, target.platform, python)]
        fix = f"Install whisperd under one of these versions of Python: {', '.join(pythons)}."
    elif target.system == "musl":
        reason = f"the builds of {name} need glibc, and this system is built on musl"
        fix = "Use a Linux system with glibc, such as Debian, Ubuntu or Fedora (a container is enough)."
    else:
        needed = ", ".join(sorted({tag.platform for tag in fitting}))
        reason = f"the builds of {name} need a newer system ({needed}) than this one ({target.system})"
        fix = "Update the operating system, or use another variant."
    data = {"distribution": name, "platform": target.platform, "python": target.python}
    return WhisperdError("native.unsupported", f"This computer cannot use the bundle: {reason}.", fix, data)


def _python_fits(tag: Tag, target: Target) -> bool:
    return any((tag.interpreter, tag.abi) == (known.interpreter, known.abi) for known in target.ranks)


def _serves(offered: Sequence[Distribution], platform: str, python: str) -> bool:
    return platform in PLATFORMS and _best(offered, Target.known(platform, python)) is not None


def _bad_lock(problem: str) -> WhisperdError:
    message = f"A lock file cannot be used: {problem}."
    return WhisperdError("native.bad_lock", message, "Reinstall whisperd and its plugins.")
