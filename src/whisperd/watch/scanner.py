"""Inspect folders and files on disk. Everything here blocks and must run in a thread."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Final

from whisperd.audio import BEGINNING_BYTES, digest_of, kind_of, open_regular_file
from whisperd.watch.ledger import FileRow, Identity, Recognition, Seen, recognise
from whisperd.watch.mounts import virtual_devices
from whisperd.watch.names import Place, Selection, is_partial, may_be_source

__all__ = [
    "Inspected",
    "classify",
    "folder_inode",
    "hash_unchanged",
    "is_being_written",
    "is_same",
    "look_at",
    "next_batch",
    "place_of",
    "recognised",
    "resolved",
    "up_from",
    "walk",
]

_OFFLINE_MACOS: Final = 0x40000000  # SF_DATALESS: in the cloud, and fetched when it is read
_OFFLINE_WINDOWS: Final = 0x1000 | 0x40000 | 0x400000  # offline, recalled when opened, or when read

Inspected = tuple[bool, str | None]
"""Whether a file has settled, and its SHA-256 if it was computed."""


def place_of(path: str) -> Place:
    """Resolve a folder."""
    return Place(path, os.path.realpath(path), folder_inode(path))


def folder_inode(path: str) -> str | None:
    """Return the device and inode of a folder; None if it does not exist, cannot be read, or is a foreign
    link."""
    try:
        status = os.stat(path)
        is_readable = stat.S_ISDIR(status.st_mode) and os.access(path, os.R_OK | os.X_OK)
        if not is_readable or _is_foreign_link(path):
            return None
    except (OSError, ValueError):
        return None
    return _inode(status)


def look_at(root: str, path: str) -> Seen | None:
    """Return a file of a folder; None unless it is a regular file whose content is stored locally, or if it
    is behind a foreign link."""
    full = os.path.join(root, path)
    if _is_behind_foreign_link(root, full):
        return None
    try:
        status = os.stat(full)
    except (OSError, ValueError):
        return None
    return _seen(root, path, status)


def is_same(root: str, path: str, identity: Identity) -> bool:
    """Whether a file of a folder exists and is unchanged."""
    seen = look_at(root, path)
    return seen is not None and identity.is_unchanged(seen.identity)


def walk(
    root: str,
    selection: Selection,
    start: str = "",
    on_leftover: Callable[[str, str], None] = lambda *_: None,
) -> Iterator[Seen | None]:
    """Yield every wanted file of a folder, or only those below `start`; None after each folder, and for each
    file that is named like a recording but is none.

    A folder is visited once, however many paths lead to it, and links come last, so that a file is found
    under its own name. Skipped are unreadable folders, the kernel's virtual file systems and the folders
    excluded by the selection, even behind a link. `on_leftover` is called with the folder and name of each
    hidden file.
    """
    folders, links = list[str](), [start]
    is_skipped = _skip_test(root, selection)
    visited = set(selection.skipped_inodes) - {folder_inode(root)}
    passed_over = virtual_devices()
    while folders or links:
        is_own, folder = (True, folders.pop()) if folders else (False, links.pop(0))
        full = os.path.join(root, folder)
        try:
            status = os.stat(full)
            if (inode := _inode(status)) in visited or status.st_dev in passed_over:
                continue
            if not is_own and is_skipped(full):
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
                    if entry.is_symlink() and is_skipped(entry.path):
                        continue
                    yield _seen(root, path, os.stat(entry.path))
                elif entry.name.startswith("."):
                    on_leftover(full, entry.name)
        yield None  # in a tree with few recordings, this shows the caller that the walk makes progress


def next_batch(walk: Iterator[Seen | None], count: int, for_s: float) -> list[Seen | None]:
    """Return what a walk finds next, up to `count` entries or `for_s` seconds; nothing once it is over."""
    found, until_s = [], time.monotonic() + for_s
    for seen in walk:
        found.append(seen)
        if len(found) >= count or time.monotonic() >= until_s:
            break
    return found


def resolved(root: str, path: str) -> str | None:
    """Return a path relative to a folder as a walk would name it, without a link that leads back into the
    folder.

    None if the path is not in the folder.
    """
    parent, name = os.path.split(path)
    real_root, real_parent = os.path.realpath(root), os.path.realpath(parent)
    if real_parent == real_root or real_parent.startswith(real_root + os.sep):
        return os.path.relpath(os.path.join(real_parent, name), real_root)
    if path.startswith(root.rstrip(os.sep) + os.sep):
        return os.path.relpath(path, root)
    return None


def up_from(path: str) -> Iterator[str]:
    """Yield a path and all its parent folders, by name only."""
    yield path
    while (parent := os.path.dirname(path)) != path:
        yield (path := parent)


def recognised(root: str, seen: Seen, known: FileRow | None, others: Sequence[FileRow]) -> Recognition:
    """Recognise a file as far as possible without reading its content."""

    def is_there(row: FileRow) -> bool:
        try:
            return _inode(os.stat(os.path.join(root, row.path))) == row.identity.inode
        except (OSError, ValueError):
            return False

    return recognise(seen, known, others, is_there)


def hash_unchanged(path: str, identity: Identity, given_up: threading.Event) -> Inspected:
    """Hash a file that seems to have settled. Raises `WhisperdError` (`audio.*`) if it cannot be read."""
    with open_regular_file(path) as file:
        descriptor = file.fileno()
        if _identity(os.fstat(descriptor)) != identity or is_being_written(descriptor, path):
            return False, None
        content_hash = digest_of(file, given_up)
        if content_hash is not None and _identity(os.fstat(descriptor)) != identity:
            return False, None
    return True, content_hash


def is_being_written(descriptor: int, path: str) -> bool:
    """Whether a process has a file open for writing, as far as the system reveals.

    Linux refuses a read lease on a file that is open for writing, and grants leases on local files of one's
    own. For other files, the open files of this user's processes are checked.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        # The kernel signals when another process opens the file meanwhile: SIGIO, by default, would kill us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return _is_open_for_writing(os.fstat(descriptor), path)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def classify(
    root: str, selection: Selection, hints: Iterable[tuple[str, bool]], note_partial: Callable[[str], None]
) -> tuple[list[tuple[Seen, bool]], list[str], list[str]]:
    """Classify these full paths: wanted files, folders, and paths that do not exist."""
    files, folders, missing = [], [], []
    is_skipped = _skip_test(root, selection)
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
            if is_skipped(path):
                continue
            if (seen := look_at(root, within)) is not None:
                files.append((seen, is_new))
        elif is_partial(os.path.basename(within)) and (part := look_at(root, within)) is not None:
            note_partial(part.identity.inode)
    return files, folders, missing


def _skip_test(root: str, selection: Selection) -> Callable[[str], bool]:
    """Return a predicate for full paths: whether one leads into a skipped folder, is behind a foreign link,
    or is a link to a file of this folder, which is found under its own name.

    The skipped folders themselves are never accessed: one may be on a disk that does not respond. Those that
    contain the watched folder do not count.
    """
    real_root = _inside(os.path.realpath(root))
    folders = (_inside(os.path.join(real_root, one)) for one in selection.skipped)
    skipped = tuple(folder for folder in folders if not real_root.startswith(folder))

    def is_skipped(full: str) -> bool:
        real = os.path.realpath(full)
        if _inside(real).startswith(skipped) or _is_behind_foreign_link(root, full):
            return True
        is_own = os.path.islink(full) and os.path.isfile(real) and real.startswith(real_root)
        return is_own and selection.takes(real.removeprefix(real_root))

    return is_skipped


def _is_behind_foreign_link(root: str, full: str) -> bool:
    """Whether a folder, or a path below it, passes through another user's link to what is not theirs.

    In a shared folder, others could otherwise have us transcribe, move or delete any file of ours. Links
    above it are not checked: in the sandbox of the systemd service, those of root, such as that to a home on
    another disk, seem to be another user's.
    """
    return any(map(_is_foreign_link, (root, *takewhile(lambda place: place != root, up_from(full)))))


def _is_foreign_link(path: str) -> bool:
    try:
        link = os.lstat(path)
        is_foreign = stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.stat(path).st_uid)
    except (OSError, ValueError):
        return False
    return is_foreign and link.st_uid != os.getuid()


def _inside(folder: str) -> str:
    """Return the prefix of the paths of everything in a folder."""
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
    if not stat.S_ISREG(status.st_mode) or _is_offline(status):
        return None
    if may_be_source(path) and _is_source(os.path.join(root, path)):
        return None
    return Seen(path, _identity(status), status.st_nlink)


def _is_source(full: str) -> bool:
    """Whether a file is clearly not a recording despite its extension."""
    try:
        with open(full, "rb") as file:
            return kind_of(file.read(BEGINNING_BYTES)) is not None
    except OSError:
        return False  # the error is reported when the file is processed


def _is_offline(status: os.stat_result) -> bool:
    """Whether the content of a file is stored only by a sync service, so that reading would download it."""
    flags: int = getattr(status, "st_flags", 0)
    attributes: int = getattr(status, "st_file_attributes", 0)
    return bool(flags & _OFFLINE_MACOS) or bool(attributes & _OFFLINE_WINDOWS)


def _identity(status: os.stat_result) -> Identity:
    return Identity(_inode(status), status.st_size, status.st_mtime_ns)


def _inode(status: os.stat_result) -> str:
    return f"{status.st_dev:x}:{status.st_ino:x}"
