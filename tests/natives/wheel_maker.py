"""Tiny wheels, and the bundles that are locked to them."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from whisperd.natives import Bundle
from whisperd.natives.lock import Distribution, Lock, Wheel, format_lock

TAG = "py3-none-any"


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, bytes] | None = None,
    wrong_record: str | None = None,
) -> Path:
    """A wheel with one module and the files given; the record of `wrong_record` does not fit its file."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content = {
        f"{module}/__init__.py": f"VERSION = {version!r}\n".encode(),
        **{f"{module}/{path}": data for path, data in (files or {}).items()},
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {TAG}\n".encode(),
    }
    record = "".join(
        f"{path},sha256={_checksum(data if path != wrong_record else b'other')},{len(data)}\n"
        for path, data in content.items()
    )
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{module}-{version}-{TAG}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in content.items():
            archive.writestr(zipfile.ZipInfo(member), data)  # without the time: the same bytes every time
    return path


def lock_wheels(name: str, *wheels: Path) -> Bundle:
    """The bundle of these wheels; the first is the main distribution."""
    distributions = tuple(_distribution(path) for path in wheels)
    lock = Lock(format=1, main=distributions[0].name, distributions=distributions)
    return Bundle(name, format_lock(lock, "A bundle for tests."))


def _distribution(path: Path) -> Distribution:
    name, version = path.name.split("-")[:2]
    with zipfile.ZipFile(path) as archive:
        unpacked_bytes = sum(member.file_size for member in archive.infolist())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = Wheel(TAG, path.stat().st_size, unpacked_bytes, digest)
    return Distribution(name.replace("_", "-"), version, (wheel,))


def _checksum(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
