"""Validate a user's changes to a watch against the rest of the daemon and the disk."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from whisperd.rpc.errors import WhisperdError
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.errors import absent, no_place_for_recordings, not_a_folder
from whisperd.watch.mounts import file_system_of, is_virtual
from whisperd.watch.preset import WatchChanges, WatchPreset, changed, invalid

__all__ = ["Editor", "checked_inode", "normal"]

DESTINATIONS: Final = ("output_dir", "move_to")
"""Fields that name a folder to write to."""


class Editor:
    """Applies changes to watches; callbacks resolve and check the names in them."""

    def __init__(
        self,
        check_options: Callable[[dict[str, Any]], object],
        runtime_id: Callable[[str], str],
        runtime_name: Callable[[str], str],
        check_profile: Callable[[str], object],
        check_model: Callable[[str], Awaitable[object]],
    ) -> None:
        """All callbacks but `runtime_name` raise `WhisperdError` for an unknown name or invalid value."""
        self.runtime_name = runtime_name
        self._check_options = check_options
        self._runtime_id = runtime_id
        self._check_profile = check_profile
        self._check_model = check_model

    async def changed(self, preset: WatchPreset, changes: WatchChanges) -> WatchPreset:
        """Return the watch with these changes. Raises `watch.invalid`, and the errors of the callbacks."""
        if isinstance(changes.runtime, str):
            changes = msgspec.structs.replace(changes, runtime=self._runtime_id(changes.runtime))
        if isinstance(changes.profile, str):
            self._check_profile(changes.profile)
        if isinstance(changes.options, dict):
            self._check_options(changes.options)
            model = changes.options.get("model")
            if model is not None and model != preset.options.get("model"):
                await self._check_model(model)
        given = {field: getattr(changes, field) for field in DESTINATIONS}
        destinations = {field: normal(path) for field, path in given.items() if isinstance(path, str)}
        after = changed(preset, msgspec.structs.replace(changes, **destinations))
        for field, path in destinations.items():
            await _check_destination(field, path)
        if after.output_dir == after.path:
            after = msgspec.structs.replace(after, output_dir=None)
        if after.move_to == after.path:
            raise invalid(
                "move_to",
                "Recordings cannot be moved into the folder they are already in.",
                "Name another folder.",
            )
        return after


def normal(path: str) -> str:
    """Return a path as it is stored; one that is not absolute is refused later."""
    return os.path.normpath(path) if os.path.isabs(path) else path


async def checked_inode(path: str) -> str:
    """Return the inode of a folder, after checking that it can be watched.

    Raises `watch.absent` if there is none; `watch.not_a_folder` for a file or a folder that does not respond;
    `watch.invalid` for `/` and for the kernel's virtual file systems.
    """

    def look() -> str | WhisperdError:
        inode = scanner.folder_inode(path)
        if inode is None and os.path.lexists(path):
            return not_a_folder(path)
        if inode is None:
            return absent(path, f"There is no folder {path}.", "Create it first, or check the spelling.")
        if path == "/" or is_virtual(file_system_of(path)):
            return no_place_for_recordings(path)
        return inode

    try:
        found = await run_abandonable(os.path.join(path, "."), look)
    except TimeoutError:
        found = not_a_folder(path)
    if isinstance(found, WhisperdError):
        raise found
    return found


async def _check_destination(field: str, path: str) -> None:
    """Raise `watch.invalid` if a file lies at a destination folder's path or above it.

    A folder that does not exist is created when something is written; one that does not respond now may
    later.
    """

    def look() -> str | None:
        lowest = next(filter(os.path.exists, scanner.up_from(path)), None)
        return None if lowest is None or os.path.isdir(lowest) else lowest

    try:
        obstacle = await run_abandonable(os.path.join(path, "."), look)
    except TimeoutError:
        return
    if obstacle is not None:
        message = f"Nothing can be written to {path}: {obstacle} is not a folder."
        raise invalid(field, message, "Name a folder; it is created if it does not exist.")
