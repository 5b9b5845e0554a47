"""Files that several bundles have stand on the disk once: variants of a backend are often the same wheels.

Each bundle stays whole by itself, since a hard link is as good as the file: it may be verified, upgraded and
removed as if there were no other. A bundle is never written to, and mending one makes new files. What was
damaged in one all the same is damaged in all that share it, and is found, and mended, in each. Blocking;
callers use a thread.
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
"""Smaller files are many, and take no room."""


def share_files(bundle: Path, others: Iterable[Path]) -> None:
    """Have those large files of a bundle that another one has be links to these.

    The bundle has its manifest, and nobody uses it yet. Only a file that is what the manifest says is linked
    to. Where the file system knows no links, or Windows would not let go of a file that is used by its other
    name, nothing is shared, which is no error.
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
    """Files of other bundles that should have one of these hashes."""
    checksums = set(checksums)
    for other in others:
        with suppress(OSError, ValueError):  # one that is being removed, or is damaged
            for path, checksum in read_manifest(other).items():
                if checksum in checksums:
                    yield other / path, checksum


def _link(found: Path, place: Path, checksum: str) -> bool:
    """Put a link to a file in the place of one, if it is what it should be; whether that was done."""
    link = place.with_name(f"{place.name}.link")
    try:
        os.link(found, link)
        # Only now can nobody take it away any more.
        if link.is_symlink() or sha256(link) != checksum:
            link.unlink()
            return False
        link.replace(place)
    except OSError:
        link.unlink(missing_ok=True)
        return False
    return True
