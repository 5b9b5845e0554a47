"""What a text was made of: the audio's bytes, and the recipe that makes a text of them.

Two jobs with the same audio and the same recipe have the same text, so the second is answered with the
first one's; and what a job has finished is sound for as long as neither has changed.
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
"""How long we read a file for its hash alone, once it is its turn. A disk that is slower than that makes its
owner wait more for the hash than the hash can spare."""
READING: Final = "read for its hash/file"
"""In a folder: reading has threads of its own, so that who looks at a file waits for none that is read."""


class FileStamp(msgspec.Struct, frozen=True, kw_only=True):
    """What the file system says of a file. Where it is unchanged, so is the file."""

    size_bytes: int
    modified_ns: int


def content_key(content: str, recipe: str) -> str:
    """What stands for the text of a file with this hash, made by the recipe with this digest."""
    return hashlib.sha256(f"{content} {recipe}".encode()).hexdigest()


def read_stamp(path: str) -> FileStamp:
    """The stamp of a file. Blocks. Raises `WhisperdError` (`audio.*`) if it is none that can be read."""
    with open_regular_file(path) as file:
        status = os.fstat(file.fileno())
    return FileStamp(size_bytes=status.st_size, modified_ns=status.st_mtime_ns)


async def check_path(path: str) -> FileStamp:
    """Whether a path can be transcribed at all; returns what the file is now.

    Raises `WhisperdError` (`audio.not_found`, `audio.is_directory`, `audio.not_readable`, …), so that nobody
    waits for a model to be loaded to learn of a spelling mistake, nor for a folder that does not answer.
    """
    try:
        return await run_abandonable(path, lambda: _check(path))
    except TimeoutError as error:
        raise WhisperdError(
            "audio.not_readable",
            f"{path} cannot be read: its folder does not answer within {ANSWER_TIMEOUT_S:.0f} seconds.",
            "Check that the disk or network folder responds, or copy the file to another one.",
            {"path": path},
        ) from error


async def inode_of(path: str) -> int | None:
    """What tells a file from another one that has taken its place; None where that is not known."""
    with suppress(OSError, TimeoutError):
        return await run_abandonable(path, lambda: Path(path).stat().st_ino)
    return None


async def content_hash(path: str) -> tuple[str, FileStamp] | None:
    """The SHA-256 of a file, and the stamp that it had all the while.

    It is read in a thread. None if its disk is too slow, or it is being written to. Raises `WhisperdError`
    (`audio.*`) if it cannot be read.
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
    """A job cannot go on: what it has finished is of another recording."""
    return WhisperdError(
        "job.input_changed",
        f"{path} has changed since the job was submitted.",
        "Submit it as a new job: the finished parts belong to the earlier content of the file.",
        {"path": path},
    )


def input_changed_meanwhile(path: str, *, is_certain: bool = True) -> WhisperdError:
    """What is to be known of a text: not all of it need be of the same recording."""
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
