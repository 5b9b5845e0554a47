"""What a native bundle is: before it is installed, and after."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import msgspec

from whisperd.natives.lock import Selection, parse_lock
from whisperd.natives.manifest import DESCRIPTION
from whisperd.natives.target import this_computer

__all__ = ["Bundle", "InstalledBundle", "read_installed", "write_description"]


@dataclass(frozen=True)
class Bundle:
    """A bundle that can be had: its name and the text of its lock file."""

    name: str
    lock: str

    def select(self) -> Selection:
        """Its wheels for this computer; `native.unsupported` says why there are none."""
        return _select(self.lock)


class InstalledBundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that is installed, complete and checked when it was."""

    name: str
    version: str
    path: Path
    """The folder to put on a child's path."""
    python: str
    """The Python that it was installed for, such as `cp311`."""
    digest: str
    """Of the locked wheels that it was made from."""
    size_bytes: int
    distributions: dict[str, str]
    """Name and version of each."""


@functools.cache
def _select(lock: str) -> Selection:
    return parse_lock(lock).select(this_computer())


class _Description(msgspec.Struct, frozen=True, kw_only=True):
    """The file in a bundle that says what it is; it is written last."""

    name: str
    version: str
    python: str
    digest: str
    size_bytes: int
    distributions: dict[str, str]


def read_installed(path: Path) -> InstalledBundle | None:
    """What lies in a folder, or None when that is no complete bundle."""
    try:
        text = (path / DESCRIPTION).read_bytes()
        description = msgspec.json.decode(text, type=_Description)
    except (OSError, msgspec.MsgspecError):
        return None
    return InstalledBundle(path=path, **msgspec.structs.asdict(description))


def write_description(path: Path, name: str, selection: Selection, size_bytes: int) -> None:
    """Declare the bundle in a folder complete."""
    description = _Description(
        name=name,
        version=selection.version,
        python=selection.python,
        digest=selection.digest,
        size_bytes=size_bytes,
        distributions={pinned.name: pinned.version for pinned in selection.pinned},
    )
    text = msgspec.json.format(msgspec.json.encode(description), indent=2)
    (path / DESCRIPTION).write_bytes(text + b"\n")
