"""Tiny wheels, and bundles locked to them."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from whisperd.natives import Bundle
from whisperd.natives.lock import Distribution, Lock, format_lock
from whisperd.natives.lock_entries import measure_wheel

TAG = "py3-none-any"


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, bytes] | None = None,
    module: bytes | None = None,
    wrong_record: str | None = None,
) -> Path:
    """Make a wheel of one module and the given files; the record of `wrong_record` does not fit its file."""
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content = {
        f"{package}/__init__.py": module or f"VERSION = {version!r}\n".encode(),
        **{f"{package}/{path}": data for path, data in (files or {}).items()},
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {TAG}\n".encode(),
    }
    record = "".join(
        f"{path},sha256={_checksum(data if path != wrong_record else b'other')},{len(data)}\n"
        for path, data in content.items()
    )
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{package}-{version}-{TAG}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in content.items():
            archive.writestr(zipfile.ZipInfo(member), data)  # without the time: always the same bytes
    return path


def make_source(folder: Path, name: str, version: str, *, backend: str, script: str) -> Path:
    """Make a source distribution, whose script the `backend` runs to build it."""
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": f'[build-system]\nrequires = ["{backend}"]\nbuild-backend = "{backend}"\n',
        "script.py": script,
    }
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            info = tarfile.TarInfo(f"{name}-{version}/{member}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def lock_wheels(name: str, *wheels: Path, ranges: Mapping[str, str] | None = None) -> Bundle:
    """Return the bundle of these wheels; the first is the main distribution."""
    distributions = tuple(distribution_of(path) for path in wheels)
    lock = Lock(format=1, main=distributions[0].name, distributions=distributions, ranges=dict(ranges or {}))
    return Bundle(name, format_lock(lock, "A bundle for tests."))


def distribution_of(path: Path) -> Distribution:
    """Return a wheel's entry in a lock."""
    name, version = path.name.split("-")[:2]
    return Distribution(name.replace("_", "-"), version, (measure_wheel(path),))


def _checksum(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
