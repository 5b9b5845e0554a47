"""Store files that several bundles have in common only once, since variants of a backend often share wheels.

Each bundle stays independent, because a hard link is as good as the file: it can be verified, upgraded and
removed as if there were no other. A bundle is never written to, and repairing one creates new files. A file
that is damaged nonetheless is damaged in all bundles that share it, and is detected and repaired in each.
Blocking; callers use a thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from whisperd.natives.manifest import read_manifest, sha256

__all__ = ["share_files"]

WORTH_IT_BYTES: Final = 65_536
"""Smaller files are many but take little space."""


def share_files(bundle: Path, others: Iterable[Path]) -> None:
    """Replace large files of a bundle with hard links to the same files of other bundles.

    The bundle must have its manifest and not be in use yet. Only files that match the manifest are linked to.
    It is no error if nothing can be shared: some file systems have no hard links, and Windows would not
    remove a file that is in use under its other name.
    """
    if os.name == "nt":
        return
    wanted = {
        checksum: path
        for path, checksum in read_manifest(bundle).items()
        if (bundle / path).stat().st_size >= WORTH_IT_BYTES
    }
    for found, checksum in _candidates(others, wanted.keys()):
        if checksum in wanted and _link(found, bundle / wanted[checksum], checksum):
            del wanted[checksum]


def _candidates(others: Iterable[Path], checksums: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Yield the files of other bundles that should have one of these hashes."""
    checksums = set(checksums)
    for other in others:
        with suppress(OSError, ValueError):  # one that is being removed, or is damaged
            for path, checksum in read_manifest(other).items():
                if checksum in checksums:
                    yield other / path, checksum


def _link(found: Path, place: Path, checksum: str) -> bool:
    """Replace `place` with a link to a file if that has the right hash; return whether it was replaced."""
    link = place.with_name(f"{place.name}.link")
    try:
        os.link(found, link)
        # Only now is the file safe from being removed by another process.
        if link.is_symlink() or sha256(link) != checksum:
            link.unlink()
            return False
        link.replace(place)
    except OSError:
        link.unlink(missing_ok=True)
        return False
    return True
