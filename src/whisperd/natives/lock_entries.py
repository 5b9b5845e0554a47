"""The entries of a lock for wheels and sources, made from the files. Blocking; callers use a thread."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from packaging.utils import parse_sdist_filename

from whisperd.natives.lock import Source, Wheel
from whisperd.natives.manifest import sha256

__all__ = ["measure_source", "measure_wheel", "wheel_tag"]


def wheel_tag(file: str) -> str:
    """Return the compatibility tag in the file name of a wheel."""
    return "-".join(file.removesuffix(".whl").split("-")[-3:])


def measure_wheel(path: Path) -> Wheel:
    """Return a wheel's row in a lock."""
    with zipfile.ZipFile(path) as archive:
        unpacked_bytes = sum(member.file_size for member in archive.infolist())
    return Wheel(wheel_tag(path.name), path.stat().st_size, unpacked_bytes, sha256(path))


def measure_source(path: Path) -> Source:
    """Return a source distribution's table in a lock."""
    name, version = parse_sdist_filename(path.name)
    return Source(name, str(version), path.name, path.stat().st_size, _unpacked_bytes(path), sha256(path))


def _unpacked_bytes(path: Path) -> int:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    with tarfile.open(path) as archive:
        return sum(member.size for member in archive)
