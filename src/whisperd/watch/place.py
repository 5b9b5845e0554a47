"""Whether a folder is one that can be watched, or written to."""

from __future__ import annotations

import os

from whisperd.rpc.errors import WhisperdError
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.errors import absent, no_place_for_recordings, not_a_folder
from whisperd.watch.mounts import file_system_of, is_of_the_system
from whisperd.watch.preset import invalid

__all__ = ["check_destination", "checked_inode"]


async def checked_inode(path: str) -> str:
    """What tells a folder that can be watched from another one of that name.

    Raises `watch.absent`; `watch.not_a_folder` of a file or what does not answer; `watch.invalid` of `/`,
    and of what the kernel makes up.
    """

    def look() -> str | WhisperdError:
        inode = scanner.folder_inode(path)
        if inode is None and os.path.lexists(path):
            return not_a_folder(path)
        if inode is None:
            return absent(
                path, f"There is no folder {path}.", "Make it first, or check the spelling of its name."
            )
        if path == "/" or is_of_the_system(file_system_of(path)):
            return no_place_for_recordings(path)
        return inode

    try:
        found = await run_abandonable(os.path.join(path, "."), look)
    except TimeoutError:
        found = not_a_folder(path)
    if isinstance(found, WhisperdError):
        raise found
    return found


async def check_destination(field: str, path: str) -> None:
    """Raise `watch.invalid` of a field that names a folder to write to, if a file lies there or above it.

    One that is not there is made when something is written; one that does not answer now may do so then.
    """

    def look() -> str | None:
        lowest = next(filter(os.path.exists, scanner.up_from(path)), None)
        return None if lowest is None or os.path.isdir(lowest) else lowest

    try:
        obstacle = await run_abandonable(os.path.join(path, "."), look)
    except TimeoutError:
        return
    if obstacle is not None:
        message = f"Nothing can be written to {path}: {obstacle} is no folder."
        raise invalid(field, message, "Name a folder; one that is not there is made.")
