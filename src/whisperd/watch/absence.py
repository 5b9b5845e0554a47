"""What is not there any more: deleted, or on a disk that is not mounted. Everything here blocks.

Where a disk was, an empty folder is left of it. It is told by this: it lies on another device than the files
that were below it, nothing is mounted on it, the device of those files is not mounted elsewhere either, and
there is no recording in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache, partial
from itertools import islice
from os.path import join
from typing import Final, NamedTuple

from whisperd.watch.ledger import FileRow, device_of
from whisperd.watch.mounts import mounted_devices
from whisperd.watch.names import Selection
from whisperd.watch.scanner import folder_inode, walk

__all__ = ["Missing", "missing_of"]

LOOKED_INTO: Final = 1000
"""Folders that are looked into for a recording: the place of a disk that is away has hardly any."""


class Missing(NamedTuple):
    """Those of some files that are not where they were."""

    gone: list[FileRow]
    unmounted: dict[str, str]
    """The inodes of the folders, by their paths within the watched one, where a disk with others was."""


def missing_of(root: str, selection: Selection, rows: Iterable[FileRow], *, is_same: bool = False) -> Missing:
    """Which of these files are not there, and why. `is_same`: the watched folder has been there all along.

    There are file systems on which a folder and the files in it are on two devices, neither of which is told
    of as mounted; so it is not left to devices alone.
    """
    missing = Missing([], {})
    nearest, inode_of = cache(partial(_nearest, root)), cache(lambda place: folder_inode(join(root, place)))
    mounted, is_bare = cache(mounted_devices), cache(partial(_is_bare, root, selection))
    for row in rows:
        if os.path.lexists(join(root, row.path)):
            continue
        place, device = nearest(os.path.dirname(row.path)), device_of(row.identity.inode)
        inode = inode_of(place)
        stays = is_same and not place
        if inode is None or stays or device in {device_of(inode), *mounted()} or not is_bare(place):
            missing.gone.append(row)
        else:
            missing.unmounted[place] = inode
    return missing


def _nearest(root: str, folder: str) -> str:
    """A folder, or the next one above it that is there; the watched one at last."""
    while folder and not os.path.isdir(join(root, folder)):
        folder = os.path.dirname(folder)
    return folder


def _is_bare(root: str, selection: Selection, place: str) -> bool:
    """Whether there is no recording in a folder, and nothing mounted on it."""
    return not os.path.ismount(join(root, place)) and not any(
        islice(walk(root, selection, place), LOOKED_INTO)
    )
