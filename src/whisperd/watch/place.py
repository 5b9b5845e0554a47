"""Whether a folder is one that can be watched."""

from __future__ import annotations

import os

from whisperd.rpc.errors import WhisperdError
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.errors import absent, no_place_for_recordings, not_a_folder
from whisperd.watch.mounts import file_system_of, is_of_the_system

__all__ = ["checked_inode"]


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
