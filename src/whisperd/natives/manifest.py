"""The manifest of a bundle: the hash of every file in it. Blocking; callers use a thread.

It is written once, after every file was compared with the RECORD of the wheel that it came from.
Its format is that of `sha256sum`, so that a bundle can be checked without whisperd.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from packaging.utils import canonicalize_name

__all__ = [
    "DESCRIPTION",
    "MANIFEST",
    "Damage",
    "compare",
    "compare_quickly",
    "installed_distributions",
    "read_manifest",
    "sha256",
    "write_manifest",
]

MANIFEST = ".whisperd.sha256"
DESCRIPTION = ".whisperd.json"
"""Written by `whisperd.natives.bundle`, and not listed in the manifest."""
_CLOCK_STEP_NS = 20_000_000
"""The longest step of the clock from which file times are taken."""


class Damage(msgspec.Struct, frozen=True):
    """A file of a bundle that differs from what was installed."""

    path: str
    """Relative to the bundle."""
    problem: Literal["missing", "changed", "extra"]


def read_records(bundle: Path) -> dict[str, str]:
    """Return the hashes in the wheels' RECORD files, by the path of each file in the bundle."""
    hashes = {}
    for record in bundle.glob("*.dist-info/RECORD"):
        with record.open(encoding="utf-8", newline="") as file:
            for path, checksum, *_ in csv.reader(file):
                algorithm, _, encoded = checksum.partition("=")
                # Scripts are outside the folder that a RECORD describes; pip's own records have no hash.
                if algorithm == "sha256" and not path.startswith(("..", "/")):
                    hashes[path.replace("\\", "/")] = base64.urlsafe_b64decode(encoded + "==").hex()
    return hashes


def installed_distributions(bundle: Path) -> set[str]:
    """Return the normalised names of the distributions in a bundle."""
    # `faster_whisper-1.2.1.dist-info`: in file names, a distribution's name has no hyphen.
    names = (folder.name.partition("-")[0] for folder in bundle.glob("*.dist-info"))
    return {canonicalize_name(name) for name in names}


def write_manifest(bundle: Path) -> tuple[Damage, ...]:
    """Compare all files with the wheels' records; if they agree, write the manifest. Returns the damage."""
    hashes = {path: sha256(bundle / path) for path in _files(bundle)}
    damage = tuple(_differences(read_records(bundle), hashes, extra_is_damage=False))
    if not damage:
        text = "".join(f"{checksum}  {path}\n" for path, checksum in sorted(hashes.items()))
        (bundle / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    return damage


def compare(bundle: Path, on_bytes: Callable[[int], None] = lambda _: None) -> tuple[Damage, ...]:
    """Compare all files with the manifest; return those that are missing, changed or extra.

    `on_bytes` is called after each file with the total number of bytes read."""
    found, done_bytes = {}, 0
    try:
        expected = read_manifest(bundle)
        for path in _files(bundle):
            found[path] = _hash_found(bundle / path)
            done_bytes += (bundle / path).lstat().st_size
            on_bytes(done_bytes)
    except (OSError, ValueError):  # the bundle may be removed meanwhile
        return (Damage(MANIFEST, "missing"),)
    return tuple(_differences(expected, found))


def compare_quickly(bundle: Path, size_bytes: int, sealed: dict[Path, int]) -> tuple[Damage, ...]:
    """Compare a bundle with its manifest without reading most files: check that none is missing, and their
    total size.

    A file that was touched since the bundle was **sealed** is read and compared. Setting its modification
    time hides nothing, because the change time reveals it (except on Windows, which has none). The seal is
    the modification time of `DESCRIPTION`; it is renewed once all files are right, so that a copied bundle is
    read only once. `sealed` remembers it for a folder that is not writable. `compare` reads every file.
    """
    begun_ns = time.time_ns() - _CLOCK_STEP_NS
    try:
        sealed_ns = max((bundle / DESCRIPTION).stat().st_mtime_ns, sealed.get(bundle, 0))
        expected = read_manifest(bundle)
        found = {path: os.stat(f"{bundle}/{path}") for path in expected}  # noqa: PTH116 - of thousands
    except (OSError, ValueError):
        return compare(bundle)
    sizes_bytes = sum(each.st_size for each in found.values()) + (bundle / MANIFEST).stat().st_size
    if sizes_bytes != size_bytes:
        return compare(bundle)
    later = [path for path, each in found.items() if _changed_ns(each) > sealed_ns]
    hashes = {path: _hash_found(bundle / path) for path in later}
    damage = tuple(_differences({path: expected[path] for path in later}, hashes))
    if later and not damage:
        sealed[bundle] = begun_ns
        with suppress(OSError):
            os.utime(bundle / DESCRIPTION, ns=(begun_ns, begun_ns))
    return damage


def _changed_ns(file: os.stat_result) -> int:
    """Return the later of a file's modification time and change time."""
    return max(file.st_mtime_ns, file.st_ctime_ns)


def read_manifest(bundle: Path) -> dict[str, str]:
    """Return the hash of each file of a bundle, by its path there. Raises `OSError`, `ValueError`."""
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    if "\0" in text:  # as after a power failure
        raise ValueError(f"the manifest of {bundle} is damaged")
    pairs = (line.partition("  ") for line in text.splitlines())
    return {path: checksum for checksum, _, path in pairs}


def _differences(
    expected: dict[str, str], found: dict[str, str], *, extra_is_damage: bool = True
) -> Iterator[Damage]:
    for path in sorted(expected.keys() | found.keys()):
        if path not in found:
            yield Damage(path, "missing")
        elif path not in expected:
            # Python itself writes compiled modules there, from files that are checked.
            if extra_is_damage and "__pycache__" not in Path(path).parts:
                yield Damage(path, "extra")
        elif expected[path] != found[path]:
            yield Damage(path, "changed")


def _files(bundle: Path) -> Iterator[str]:
    """Yield the paths of all files that the manifest covers."""
    for path in bundle.rglob("*"):
        name = path.relative_to(bundle).as_posix()
        if not path.is_dir() and name not in (MANIFEST, DESCRIPTION):
            yield name


def _hash_found(path: Path) -> str:
    """Return the hash of a file; empty if it cannot be read, as on a bad disk, or is a broken link."""
    try:
        return sha256(path)
    except OSError:
        return ""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
