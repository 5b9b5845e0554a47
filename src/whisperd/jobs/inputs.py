"""Whether a file can be transcribed at all, before anybody waits for a model."""

from __future__ import annotations

import os

from whisperd.jobs.identity import FileStamp, read_stamp
from whisperd.rpc.errors import WhisperdError
from whisperd.threads import ANSWER_TIMEOUT_S, run_abandonable

__all__ = ["check_input", "check_path"]


def check_input(path: str) -> FileStamp:
    """Whether a path can be transcribed at all; returns what the file is now. Blocks.

    Raises `WhisperdError` (`audio.not_found`, `audio.is_directory`, `audio.not_readable`, …) at
    once, so that nobody waits for a model to be loaded to learn of a spelling mistake.
    """
    if "\0" in path:
        raise WhisperdError(
            "audio.not_found",
            f"There is no file {path!r}: no name holds a NUL character.",
            "Check the spelling of its name.",
        )
    if not os.path.isabs(path):  # noqa: PTH117 - the daemon has no working folder of yours
        raise WhisperdError(
            "input.not_absolute", f"The path {path!r} is not absolute.", "Send an absolute path."
        )
    return read_stamp(path)


async def check_path(path: str) -> FileStamp:
    """As `check_input`, in a thread, for a folder may not answer: then `audio.not_readable` is raised."""
    try:
        return await run_abandonable(path, lambda: check_input(path))
    except TimeoutError as error:
        raise WhisperdError(
            "audio.not_readable",
            f"{path} cannot be read: its folder does not answer within {ANSWER_TIMEOUT_S:.0f} seconds.",
            "Check that its disk or network folder answers, or copy the file to another one.",
            {"path": path},
        ) from error
