"""Tell deleted files from files on a disk that is not mounted. Everything here blocks.

Unmounting a disk leaves an empty folder behind. It is recognised by this: it lies on another device than the
files that were below it, nothing is mounted on it, the device of those files is not mounted elsewhere either,
and it contains no recording.
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

__all__ = ["Missing", "find_missing"]

SEARCHED_ENTRIES: Final = 1000
"""The most entries searched for a recording: the mount point of a missing disk has hardly any."""


class Missing(NamedTuple):
    """The files that are missing, by cause."""

    gone: list[FileRow]
    unmounted: dict[str, str]
    """The empty mount points below which the others were: path within the watched folder to inode."""


def find_missing(
    root: str, selection: Selection, rows: Iterable[FileRow], *, is_same: bool = False
) -> Missing:
    """Return which of these files are missing, and why. `is_same`: the watched folder itself has not changed.

    Devices alone do not decide: on some file systems a folder and its files have different devices, neither
    of them listed as mounted.
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
    """Return the folder, or its nearest existing parent; at last the watched folder itself."""
    while folder and not os.path.isdir(join(root, folder)):
        folder = os.path.dirname(folder)
    return folder


def _is_bare(root: str, selection: Selection, place: str) -> bool:
    """Whether a folder contains no recording and nothing is mounted on it."""
    return not os.path.ismount(join(root, place)) and not any(
        islice(walk(root, selection, place), SEARCHED_ENTRIES)
    )
