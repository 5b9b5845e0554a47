"""Looking at folders and files. Everything here blocks, and belongs into a thread."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from whisperd.audio import BEGINNING_BYTES, digest_of, kind_of, open_regular_file
from whisperd.watch.ledger import FileRow, Identity, Recognition, Seen, recognise
from whisperd.watch.mounts import devices_of_the_system
from whisperd.watch.names import Place, Selection, is_partial, may_be_source

__all__ = [
    "Inspected",
    "folder_inode",
    "hash_unchanged",
    "is_being_written",
    "is_same",
    "look_at",
    "next_of",
    "place_of",
    "recognised",
    "resolved",
    "sort_out",
    "up_from",
    "walk",
]

_ELSEWHERE_MACOS: Final = 0x40000000  # SF_DATALESS: in the cloud, and fetched when it is read
_ELSEWHERE_WINDOWS: Final = 0x1000 | 0x40000 | 0x400000  # offline, recalled when opened, or when read

Inspected = tuple[bool, str | None]
"""Whether a file has settled, and its SHA-256 if that was found out."""


def place_of(path: str) -> Place:
    """Where a folder is."""
    return Place(path, os.path.realpath(path), folder_inode(path))


def folder_inode(path: str) -> str | None:
    """What tells a folder from another one of that name; None if there is none, or it cannot be read."""
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode) or not os.access(path, os.R_OK | os.X_OK):
            return None
    except (OSError, ValueError):
        return None
    return _inode(status)


def look_at(root: str, path: str) -> Seen | None:
    """A file of a folder; None if there is no regular file with content that is here."""
    try:
        status = os.stat(os.path.join(root, path))
    except (OSError, ValueError):
        return None
    return _seen(root, path, status)


def is_same(root: str, path: str, identity: Identity) -> bool:
    """Whether a file of a folder is there, and is what it was."""
    seen = look_at(root, path)
    return seen is not None and seen.identity == identity


def walk(
    root: str,
    selection: Selection,
    start: str = "",
    on_leftover: Callable[[str, str], None] = lambda *_: None,
) -> Iterator[Seen | None]:
    """Every file that is wanted, in a folder or from `start` within it on; None after each folder, and for
    what is called like a recording and is none.

    A folder is looked into once, by whatever ways it can be reached, and links come last, so that a file is
    found under its own name. What cannot be read is passed over, and so is what the kernel makes up, and what
    is left alone, also where a link leads to it. `on_leftover` is told of hidden files, by folder and name.
    """
    folders, links = list[str](), [start]
    is_others = _others(root, selection)
    visited = set(selection.inodes_left_alone) - {folder_inode(root)}
    passed_over = devices_of_the_system()
    while folders or links:
        is_own, folder = (True, folders.pop()) if folders else (False, links.pop(0))
        full = os.path.join(root, folder)
        try:
            status = os.stat(full)
            if (inode := _inode(status)) in visited or status.st_dev in passed_over:
                continue
            if not is_own and is_others(full):
                continue
            visited.add(inode)
            with os.scandir(full) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            path = os.path.join(folder, entry.name)
            with contextlib.suppress(OSError):
                if entry.is_dir():
                    if selection.enters(path):
                        (links if entry.is_symlink() else folders).append(path)
                elif selection.wants(path):
                    if entry.is_symlink() and is_others(entry.path):
                        continue
                    yield _seen(root, path, os.stat(entry.path))
                elif entry.name.startswith("."):
                    on_leftover(full, entry.name)
        yield None  # in a tree with few recordings, who waits for the next one hears that it goes on


def next_of(walk: Iterator[Seen | None], count: int, for_s: float) -> list[Seen | None]:
    """What a walk finds next: so many at most, or what there is after a time; nothing once it is over."""
    found, until_s = [], time.monotonic() + for_s
    for seen in walk:
        found.append(seen)
        if len(found) >= count or time.monotonic() >= until_s:
            break
    return found


def resolved(root: str, path: str) -> str | None:
    """A path within a folder, as a walk would name it: without a link that leads back into the folder.

    None for one that is not in it.
    """
    parent, name = os.path.split(path)
    real_root, real_parent = os.path.realpath(root), os.path.realpath(parent)
    if real_parent == real_root or real_parent.startswith(real_root + os.sep):
        return os.path.relpath(os.path.join(real_parent, name), real_root)
    if path.startswith(root.rstrip(os.sep) + os.sep):
        return os.path.relpath(path, root)
    return None


def up_from(path: str) -> Iterator[str]:
    """A path, and all the folders that it is in, by their names alone."""
    yield path
    while (parent := os.path.dirname(path)) != path:
        yield (path := parent)


def recognised(root: str, seen: Seen, known: FileRow | None, others: Sequence[FileRow]) -> Recognition:
    """What a file is, as far as it can be told without what it holds."""

    def is_there(row: FileRow) -> bool:
        try:
            return _inode(os.stat(os.path.join(root, row.path))) == row.identity.inode
        except (OSError, ValueError):
            return False

    return recognise(seen, known, others, is_there)


def hash_unchanged(path: str, identity: Identity, given_up: threading.Event) -> Inspected:
    """Read a file that is thought to have settled. Raises `WhisperdError` (`audio.*`) if that cannot be."""
    with open_regular_file(path) as file:
        descriptor = file.fileno()
        if _identity(os.fstat(descriptor)) != identity or is_being_written(descriptor, path):
            return False, None
        content_hash = digest_of(file, given_up)
        if content_hash is not None and _identity(os.fstat(descriptor)) != identity:
            return False, None
    return True, content_hash


def is_being_written(descriptor: int, path: str) -> bool:
    """Whether somebody has a file open for writing, as far as the system tells.

    Linux refuses a lease for reading while somebody has; it gives leases on local files of one's own. For
    the others, the processes of this user are looked through.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        # We are told when somebody opens the file meanwhile: by SIGIO, which would end us, if not by this.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return _is_open_for_writing(os.fstat(descriptor), path)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def sort_out(
    root: str, selection: Selection, hints: Iterable[tuple[str, bool]], note_partial: Callable[[str], None]
) -> tuple[list[tuple[Seen, bool]], list[str], list[str]]:
    """What is at these whole paths: files that are wanted, folders, and what is not there."""
    files, folders, missing = [], [], []
    is_others = _others(root, selection)
    for path, is_new in hints:
        if not os.path.lexists(path):
            missing.append("" if path == root else os.path.relpath(path, root))
            continue
        within = resolved(root, path)
        if within is None or within == "." or not selection.reaches(within):
            continue
        if os.path.isdir(path):
            if selection.enters(within):
                folders.append(within)
        elif selection.wants(within):
            if is_others(path):
                continue
            if (seen := look_at(root, within)) is not None:
                files.append((seen, is_new))
        elif is_partial(os.path.basename(within)) and (part := look_at(root, within)) is not None:
            note_partial(part.identity.inode)
    return files, folders, missing


def _others(root: str, selection: Selection) -> Callable[[str], bool]:
    """Whether a whole path leads into what is left alone, or is a link to a file of this folder, which is
    found under its own name.

    What is left alone is not looked at: it may be on a disk that does not answer. Those folders do not count
    in which the watched one itself lies.
    """
    real_root = _inside(os.path.realpath(root))
    folders = (_inside(os.path.join(real_root, one)) for one in selection.left_alone)
    left_alone = tuple(folder for folder in folders if not real_root.startswith(folder))

    def is_others(full: str) -> bool:
        real = os.path.realpath(full)
        if _inside(real).startswith(left_alone):
            return True
        is_own = os.path.islink(full) and os.path.isfile(real) and real.startswith(real_root)
        return is_own and selection.takes(real.removeprefix(real_root))

    return is_others


def _inside(folder: str) -> str:
    """What the paths of all that is in a folder begin with."""
    return os.path.join(folder, "")


def _is_open_for_writing(status: os.stat_result, path: str) -> bool:
    """Whether a process of this user has a file open for writing."""
    name = os.path.basename(path)
    for process in os.listdir("/proc"):
        if not process.isdecimal():
            continue
        folder = f"/proc/{process}/fd"
        with contextlib.suppress(OSError):
            for number in os.listdir(folder):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    if os.path.basename(os.readlink(f"{folder}/{number}")) != name:
                        continue
                    if _inode(os.stat(f"{folder}/{number}")) != _inode(status):
                        continue
                    with open(f"/proc/{process}/fdinfo/{number}") as facts:
                        flags = next(line for line in facts if line.startswith("flags:"))
                    if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                        return True
    return False


def _seen(root: str, path: str, status: os.stat_result) -> Seen | None:
    if not stat.S_ISREG(status.st_mode) or _is_elsewhere(status):
        return None
    if may_be_source(path) and _is_source(os.path.join(root, path)):
        return None
    return Seen(path, _identity(status), status.st_nlink)


def _is_source(full: str) -> bool:
    """Whether a file is plainly no recording, for all that it is called like one."""
    try:
        with open(full, "rb") as file:
            return kind_of(file.read(BEGINNING_BYTES)) is not None
    except OSError:
        return False  # what keeps us from it is told when its turn comes


def _is_elsewhere(status: os.stat_result) -> bool:
    """Whether the content of a file is only with a sync service, and would be fetched by reading it."""
    flags: int = getattr(status, "st_flags", 0)
    attributes: int = getattr(status, "st_file_attributes", 0)
    return bool(flags & _ELSEWHERE_MACOS) or bool(attributes & _ELSEWHERE_WINDOWS)


def _identity(status: os.stat_result) -> Identity:
    return Identity(_inode(status), status.st_size, status.st_mtime_ns)


def _inode(status: os.stat_result) -> str:
    return f"{status.st_dev:x}:{status.st_ino:x}"
