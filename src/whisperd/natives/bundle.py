"""The types of a native bundle, before and after installation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from whisperd import disk
from whisperd.natives.lock import Selection, parse_lock
from whisperd.natives.manifest import DESCRIPTION
from whisperd.natives.target import this_computer, this_processor
from whisperd.plugins import Variant

__all__ = ["Bundle", "InstalledBundle", "bundles_in", "read_installed", "write_description"]


@dataclass(frozen=True)
class Bundle:
    """A bundle that can be installed: its name and the text of its lock file."""

    name: str
    lock: str
    build: Mapping[str, str] | None = field(default=None, hash=False)
    """Variables for the build, if its lock has sources."""

    @classmethod
    def of(cls, variant: Variant) -> Bundle | None:
        """Return the bundle of a variant, if it has one."""
        return None if variant.lock is None else cls(variant.name, variant.lock, variant.build)

    def select(self) -> Selection:
        """Return its files for this computer. Raises `native.unsupported` if there are none."""
        selection = _select(self.lock)
        if not selection.sources:
            return selection
        # A compiler builds for this exact processor, but other computers may share the folder.
        return dataclasses.replace(selection, build=self.build or {}, processor=this_processor())


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """The file in a bundle that describes it; written last."""

    name: str
    version: str
    python: str
    """The Python that it was installed for, such as `cp311`."""
    digest: str
    """The digest of the locked files from which it was made."""
    size_bytes: int
    distributions: dict[str, str]
    """The version of each, by name."""


class InstalledBundle(Description, frozen=True, kw_only=True):
    """An installed bundle, complete and checked at installation."""

    path: Path
    """The folder to put on a child's path."""


@functools.cache
def _select(lock: str) -> Selection:
    return parse_lock(lock).select(this_computer())


def bundles_in(root: Path) -> Iterator[Path]:
    """Yield the folders of all bundles, complete or not; some may be removed meanwhile. Blocks."""
    for version in disk.contents(root):
        if not version.name.startswith("."):
            yield from (path for path in disk.contents(version) if not path.name.startswith("."))


def read_installed(path: Path) -> InstalledBundle | None:
    """Return the bundle in a folder; None if there is no complete one."""
    description = disk.read_json(path / DESCRIPTION, Description)
    if description is None:
        return None
    return InstalledBundle(path=path, **msgspec.structs.asdict(description))


def write_description(path: Path, name: str, selection: Selection, size_bytes: int) -> None:
    """Declare the bundle in a folder complete."""
    description = Description(
        name=name,
        version=selection.version,
        python=selection.python,
        digest=selection.digest,
        size_bytes=size_bytes,
        distributions=selection.versions,
    )
    text = msgspec.json.format(msgspec.json.encode(description), indent=2)
    (path / DESCRIPTION).write_bytes(text + b"\n")
