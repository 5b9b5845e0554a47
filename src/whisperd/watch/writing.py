"""Write outputs atomically, and never over a file that is not ours. Everything here blocks."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import itertools
import os
import re
import secrets
import stat
import sys
from collections.abc import Collection, Iterator
from typing import BinaryIO, Final

import psutil

from whisperd import disk
from whisperd.rpc.errors import WhisperdError
from whisperd.watch.scanner import up_from

__all__ = [
    "FOLDER_NOT_WRITABLE",
    "file_hash",
    "is_ours",
    "longest_name",
    "move_source",
    "place",
    "remove_leftover",
    "remove_leftovers",
    "remove_ours",
    "rename_output",
    "text_hash",
]

FOLDER_NOT_WRITABLE: Final = "output.folder_not_writable"
_PART: Final = re.compile(r"\.whisperd-(\d+)-[0-9a-f]{16}\.part")
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
"""Errors by which a file system reports that it does not support hard links, or not here."""
_FOLDER_ONLY: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_being_written: set[str] = set()


def text_hash(content: bytes) -> str:
    """Return the SHA-256 of an output."""
    return hashlib.sha256(content).hexdigest()


def file_hash(path: str) -> str | None:
    """Return the SHA-256 of a regular file; None if there is none at the path or it cannot be read."""
    try:
        with open(path, "rb", opener=disk.open_nonblocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a device may have no end
                return None
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def is_ours(path: str, hashes: Collection[str]) -> bool:
    """Whether the file at a path is one that we wrote and that is unchanged since."""
    return not os.path.islink(path) and file_hash(path) in hashes


def longest_name(folder: str) -> int:
    """Return how many bytes a file name in a folder may have."""
    try:
        return max(32, os.pathconf(folder, "PC_NAME_MAX"))
    except (AttributeError, OSError, ValueError):
        return 255


def place(
    target: str, content: bytes, hashes: Collection[str], source: str, *, overwrite: bool = False
) -> None:
    """Write a file durably. An existing one is replaced if its hash is in `hashes`, or with `overwrite`.

    Users who may read or write the recording `source` may do the same with the file, whatever our umask, and
    may enter the folders that are created for it; members of its group only if the file gets that group.
    Raises `output.exists`, `output.not_writable`, `output.folder_not_writable` and `disk.full`.
    """
    folder = os.path.dirname(target)
    try:
        with _part_in(folder) as part:
            try:
                _make_folder(folder, os.path.dirname(source))
                with _new_file(part) as file:
                    file.write(content)
                    _share(file.fileno(), source, 0o666)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:  # whatever its name, nothing can be written there
                raise _refused(target, error, FOLDER_NOT_WRITABLE) from error
            if not _give_free_name(part, target):
                ours = {*hashes, text_hash(content)}
                if not (overwrite and os.path.isfile(target)) and not is_ours(target, ours):
                    raise _exists(target)
                os.replace(part, target)
            _sync_folder(folder)
    except OSError as error:
        raise _refused(target, error) from error


def rename_output(old: str, new: str, hashes: Collection[str]) -> bool:
    """Rename an output with its recording; return whether it is then at `new`. Files that are not ours stay.

    Renaming a folder takes the texts in it along, including those that the user has changed. A file that
    happens to have the recording's new name need not be its text.
    """
    try:
        if is_ours(old, hashes):
            _make_folder(os.path.dirname(new), os.path.dirname(old))
            if _give_free_name(old, new):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old)
                _sync_folder(os.path.dirname(new))
                return True
        is_carried = os.path.basename(new) == os.path.basename(old) and not os.path.lexists(old)
        return is_ours(new, hashes) or (is_carried and os.path.isfile(new))
    except OSError:
        return False


def move_source(source: str, folder: str) -> str:
    """Move a recording into a folder, under a name that is free there; return its new path.

    Repeated after an interruption, it completes what it began. Raises `output.not_writable` and `disk.full`.
    """
    name = os.path.basename(source)
    try:
        _make_folder(folder, os.path.dirname(source))
        if os.path.samefile(os.path.dirname(source), folder):
            return source
        longest = longest_name(folder)
        for number in range(1, 10_000):
            target = os.path.join(folder, _numbered(name, number, longest))
            if os.path.lexists(target):
                if not _is_copy(source, target):
                    continue
            elif not _move_or_copy(source, target):
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(source)
            _sync_folder(folder)
            return target
    except OSError as error:
        raise _refused(os.path.join(folder, name), error, kind="recording") from error
    raise _exists(os.path.join(folder, name))


def remove_leftover(folder: str, name: str) -> None:
    """Delete a partial file that belongs to no running daemon."""
    found = _PART.fullmatch(name)
    if found is None or name in _being_written:
        return
    pid = int(found[1])
    if pid == os.getpid() or not _is_running(pid):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))


def _is_running(pid: int) -> bool:
    try:
        return psutil.pid_exists(pid)
    except OverflowError:  # no process has such an id: the name was made up
        return False


def remove_leftovers(folder: str) -> None:
    """Delete all partial files in a folder that belong to no running daemon."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            remove_leftover(folder, name)


def remove_ours(path: str, hashes: Collection[str]) -> None:
    """Delete a file that we wrote, unless it was changed or may not be deleted."""
    if is_ours(path, hashes):
        with contextlib.suppress(OSError):
            os.unlink(path)


def _make_folder(folder: str, like: str) -> None:
    """Create a folder and its parents, with access for all who may access `like`, whatever our umask."""
    made = list(itertools.takewhile(lambda place: not os.path.lexists(place), up_from(folder)))
    os.makedirs(folder, exist_ok=True)
    for place in made:
        with contextlib.suppress(OSError):  # Windows opens no folders, and needs none of this
            descriptor = os.open(place, _FOLDER_ONLY)
            try:
                _share(descriptor, like, 0o1777)
            finally:
                os.close(descriptor)


def _new_file(path: str) -> BinaryIO:
    """Create a file that no one else can open yet, whatever our umask."""
    return open(path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600))


def _share(descriptor: int, like: str, given: int) -> None:
    """Give all users the permissions that they have on `like`, as far as those are `given`.

    By descriptor: where others can write to the folder, they could replace the file with a link to one of
    ours, which would get these permissions. On Windows, files have those of their folder.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):  # it was deleted, or this file system has no such permissions
        ours, theirs = os.fstat(descriptor), os.stat(like)
        mode = theirs.st_mode
        if ours.st_gid != theirs.st_gid or (_has_acl(like) and not _has_acl(descriptor)):
            mode = mode & ~0o070 | (mode & 0o007) << 3  # our group may have no more rights than all others
        os.fchmod(descriptor, stat.S_IMODE(ours.st_mode | mode & given))


def _has_acl(file: int | str) -> bool:
    """Whether a file has an access control list. If so, the rights of the group in its mode are the most that
    any user or group in the list has."""
    if sys.platform != "linux":
        return False
    try:
        return "system.posix_acl_access" in os.listxattr(file)
    except OSError:  # this file system has none
        return False


def _give_free_name(source: str, target: str) -> bool:
    """Give a file a name that is free; returns False if it is taken. It may keep its old name as well."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            return False
        os.rename(source, target)
    return True


def _numbered(name: str, number: int, max_bytes: int) -> str:
    """Return `a.wav`, `a (2).wav` and so on; a stem that would make the name too long loses its end."""
    stem, extension = os.path.splitext(name)
    ending = extension if number == 1 else f" ({number}){extension}"
    while stem and len(os.fsencode(stem + ending)) > max_bytes:
        stem = stem[:-1]
    return stem + ending


def _is_copy(source: str, target: str) -> bool:
    """Whether the target is the same file under another name, or has the same bytes."""
    if os.path.islink(target) or not os.path.isfile(target):
        return False
    return os.path.samefile(source, target) or filecmp.cmp(source, target, shallow=False)


def _move_or_copy(source: str, target: str) -> bool:
    """Move or copy a file to a name that is free, even on another disk; returns False if it is taken."""
    if os.path.islink(source) and not os.path.isabs(os.readlink(source)):
        return _copy(source, target)  # moved, a relative link would lead nowhere
    try:
        return _give_free_name(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # also raised between two mounts of the same disk
            raise
    return _copy(source, target)


def _copy(source: str, target: str) -> bool:
    """Copy a file to a free name; return False if it is taken. Raises `OSError`, also if the file changes."""
    import shutil

    before = os.stat(source)
    # A recording that does not fit would be copied in vain at every retry. Some network drives report 0.
    if 0 < shutil.disk_usage(os.path.dirname(target)).free < before.st_size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with _part_in(os.path.dirname(target)) as part:
        if sys.platform == "linux":
            with _new_file(part) as file:
                shutil.copy2(source, f"/proc/self/fd/{file.fileno()}")  # by descriptor, as in `_share`
                os.fsync(file.fileno())
        else:
            shutil.copy2(source, part)
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
        after = os.stat(source)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise OSError(errno.EBUSY, "the recording changed during the copy")
        return _give_free_name(part, target)


@contextlib.contextmanager
def _part_in(folder: str) -> Iterator[str]:
    """Provide a path in a folder for a partial file, which is deleted after the block."""
    name = f".whisperd-{os.getpid()}-{secrets.token_hex(8)}.part"
    part = os.path.join(folder, name)
    _being_written.add(name)
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)
        _being_written.discard(name)


def _sync_folder(folder: str) -> None:
    """Flush the names in a folder to disk; where a folder cannot be opened, the system does so itself."""
    with contextlib.suppress(OSError):
        disk.sync_folder(folder)


def _exists(target: str) -> WhisperdError:
    return WhisperdError(
        "output.exists",
        f"{target} already exists and was not written by whisperd, or was changed since.",
        "Rename it and run `whisperctl watch retry FOLDER`, or allow overwriting with"
        " `whisperctl watch edit FOLDER --overwrite`.",
        {"path": target},
    )


def _refused(
    target: str, error: OSError, code: str = "output.not_writable", kind: str = "text"
) -> WhisperdError:
    folder = os.path.dirname(target)
    if disk.refusal(error) == "full":
        from pathlib import PurePath

        fix = "Free some space there; whisperd retries automatically."
        return disk.disk_full(kind, os.path.basename(target), PurePath(folder), fix)
    return WhisperdError(
        code,
        f"{target} cannot be written: {error.strerror or error}.",
        "Check the folder, its permissions and the space on its disk.",
        {"path": target, "folder": folder},
    )
