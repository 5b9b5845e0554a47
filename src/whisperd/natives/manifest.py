"""The manifest of a bundle: the hash of every file in it. Blocking; callers use a thread.

It is written once, after every file was compared with the RECORD of the wheel that it came from.
Its lines are those of `sha256sum`, so a bundle can be checked without whisperd.
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
"""Written by `whisperd.natives.bundle`, and not in the manifest."""
_CLOCK_STEP_NS = 20_000_000
"""The times of files come from a clock that is read now and then, at least so often."""


class Damage(msgspec.Struct, frozen=True):
    """A file of a bundle that is not as it was installed."""

    path: str
    """Relative to the bundle."""
    problem: Literal["missing", "changed", "extra"]


def read_records(bundle: Path) -> dict[str, str]:
    """What the wheels say of themselves: the hash of each file, by its path in the bundle."""
    hashes = {}
    for record in bundle.glob("*.dist-info/RECORD"):
        with record.open(encoding="utf-8", newline="") as file:
            for path, checksum, *_ in csv.reader(file):
                algorithm, _, encoded = checksum.partition("=")
                # Scripts lie outside of what a RECORD can name; pip's own notes have no hash.
                if algorithm == "sha256" and not path.startswith(("..", "/")):
                    hashes[path.replace("\\", "/")] = base64.urlsafe_b64decode(encoded + "==").hex()
    return hashes


def installed_distributions(bundle: Path) -> set[str]:
    """The normalised names of the distributions that lie in a bundle."""
    # `faster_whisper-1.2.1.dist-info`: in file names, a name has no hyphen.
    names = (folder.name.partition("-")[0] for folder in bundle.glob("*.dist-info"))
    return {canonicalize_name(name) for name in names}


def write_manifest(bundle: Path) -> tuple[Damage, ...]:
    """Compare all files with the wheels' records; where they agree, write the manifest."""
    hashes = {path: sha256(bundle / path) for path in _files(bundle)}
    damage = tuple(_differences(read_records(bundle), hashes, extra_is_damage=False))
    if not damage:
        text = "".join(f"{checksum}  {path}\n" for path, checksum in sorted(hashes.items()))
        (bundle / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    return damage


def compare(bundle: Path, on_bytes: Callable[[int], None] = lambda _: None) -> tuple[Damage, ...]:
    """Compare all files with the manifest: what is missing, changed or too many. `on_bytes` is told with each
    how many bytes were read in all."""
    found, done_bytes = {}, 0
    try:
        expected = read_manifest(bundle)
        for path in _files(bundle):
            found[path] = _hash_found(bundle / path)
            done_bytes += (bundle / path).lstat().st_size
            on_bytes(done_bytes)
    except (OSError, ValueError):  # it may be going while we look
        return (Damage(MANIFEST, "missing"),)
    return tuple(_differences(expected, found))


def compare_quickly(bundle: Path, size_bytes: int, sealed: dict[Path, int]) -> tuple[Damage, ...]:
    """What can be seen without reading: files that are missing, and whether all have the size that they had.

    A file that was touched since the bundle was **sealed** is read and compared: whatever time somebody gave
    it, the system's own note of its last change tells (but on Windows, which has none). The seal is the time
    of `DESCRIPTION`, and is renewed once all is well, so that a copied bundle is read once; for a folder that
    cannot be written to, `sealed` remembers it. `compare` reads all.
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
    """When a file was changed last: by what it says of itself, and by what the system says of it."""
    return max(file.st_mtime_ns, file.st_ctime_ns)


def read_manifest(bundle: Path) -> dict[str, str]:
    """The hash of each file of a bundle, by its path there. Raises `OSError`, `ValueError`."""
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    if "\0" in text:  # as a computer that loses its power may leave it
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
            # Python itself puts compiled modules there; they are made from files that are checked.
            if extra_is_damage and "__pycache__" not in Path(path).parts:
                yield Damage(path, "extra")
        elif expected[path] != found[path]:
            yield Damage(path, "changed")


def _files(bundle: Path) -> Iterator[str]:
    """The paths of all that the manifest is of."""
    for path in bundle.rglob("*"):
        name = path.relative_to(bundle).as_posix()
        if not path.is_dir() and name not in (MANIFEST, DESCRIPTION):
            yield name


def _hash_found(path: Path) -> str:
    """The hash of a file; that of none where it cannot be read, as on a bad disk, or leads nowhere."""
    try:
        return sha256(path)
    except OSError:
        return ""


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
