"""The identity of a transcript: the bytes of its audio, and the recipe that produced the text.

Jobs with the same audio and the same recipe have the same text, so a second one is answered with the
transcript of the first. The finished windows of a job stay valid as long as neither has changed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from whisperd.audio import digest_of, not_readable, open_regular_file
from whisperd.rpc.errors import WhisperdError
from whisperd.threads import ANSWER_TIMEOUT_S, run_abandonable

__all__ = [
    "FileStamp",
    "check_path",
    "content_hash",
    "content_key",
    "inode_of",
    "input_changed",
    "input_changed_meanwhile",
    "read_stamp",
]

HASH_TIMEOUT_S: Final = 60.0
"""Longest time to read a file only for its hash, once its turn comes. On a slower disk, waiting for the hash
would take longer than the hash can save."""
READING: Final = "read for its hash/file"
"""Thread key for hashing, below the file's folder, so that quick checks of a file never wait for a hash."""


class FileStamp(msgspec.Struct, frozen=True, kw_only=True):
    """The size and modification time of a file. While they stay the same, the file is unchanged."""

    size_bytes: int
    modified_ns: int


def content_key(content: str, recipe: str) -> str:
    """Return the key of a transcript of a file with this hash, made by the recipe with this digest."""
    return hashlib.sha256(f"{content} {recipe}".encode()).hexdigest()


def read_stamp(path: str) -> FileStamp:
    """Return the stamp of a file. Blocks. Raises `WhisperdError` (`audio.*`) if it is not a readable file."""
    try:
        with open_regular_file(path) as file:
            status = os.fstat(file.fileno())
    except OSError as error:  # a network disk may fail at any call
        raise not_readable(path, error) from error
    return FileStamp(size_bytes=status.st_size, modified_ns=status.st_mtime_ns)


async def check_path(path: str) -> FileStamp:
    """Check that a path can be transcribed, and return the current stamp of the file.

    Raises `WhisperdError` (`audio.not_found`, `audio.is_directory`, `audio.not_readable`, …), so that a
    client learns of a misspelt name or of a folder that does not respond before a model is loaded.
    """
    try:
        return await run_abandonable(path, lambda: _check(path))
    except TimeoutError as error:
        raise WhisperdError(
            "audio.not_readable",
            f"{path} cannot be read: its folder did not respond within {ANSWER_TIMEOUT_S:.0f} seconds.",
            "Check that the disk or network folder responds, or copy the file to another one.",
            {"path": path},
        ) from error


async def inode_of(path: str) -> int | None:
    """Return the inode of a file, which changes when another file takes its place; None if it is unknown."""
    with suppress(OSError, TimeoutError, WhisperdError):
        return await run_abandonable(path, lambda: Path(path).stat().st_ino)
    return None


async def content_hash(path: str) -> tuple[str, FileStamp] | None:
    """Return the SHA-256 of a file, and the stamp that it had throughout.

    Reads the file in a thread. Returns None if the disk is too slow or the file changed meanwhile. Raises
    `WhisperdError` (`audio.*`) if it cannot be read.
    """
    given_up, threads = threading.Event(), Path(path).parent / READING
    try:
        return await run_abandonable(threads, lambda: _hash(path, given_up), HASH_TIMEOUT_S)
    except TimeoutError:
        return None
    except OSError as error:
        raise not_readable(path, error) from error
    finally:
        given_up.set()


def input_changed(path: str) -> WhisperdError:
    """Return the error for a job that cannot resume, because its finished windows belong to other content."""
    return WhisperdError(
        "job.input_changed",
        f"{path} has changed since the job was submitted.",
        "Submit it as a new job: the finished parts belong to the earlier content of the file.",
        {"path": path},
    )


def input_changed_meanwhile(path: str, *, is_certain: bool) -> WhisperdError:
    """Return the warning for a transcript whose file changed while it was read."""
    what = "changed" if is_certain else "(or only its modification time) changed"
    return WhisperdError(
        "job.input_changed",
        f"{path} {what} while it was being transcribed: the transcript may mix its old and its new content,"
        " or lack audio that was added.",
        "Transcribe it again when no program is writing to it.",
        {"path": path},
    )


def _check(path: str) -> FileStamp:
    if "\0" in path:
        raise WhisperdError(
            "audio.not_found",
            f"There is no file {path!r}: a file name cannot contain a NUL character.",
            "Check the spelling of the name.",
        )
    if not os.path.isabs(path):  # noqa: PTH117 - the daemon has no working folder of yours
        raise WhisperdError(
            "input.not_absolute", f"The path {path!r} is not absolute.", "Send an absolute path."
        )
    return read_stamp(path)


def _hash(path: str, given_up: threading.Event) -> tuple[str, FileStamp] | None:
    before = read_stamp(path)
    with open_regular_file(path) as file:
        digest = digest_of(file, given_up)
    return (digest, before) if digest is not None and read_stamp(path) == before else None
