"""What a person sets of a watch, held against what there is."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from whisperd.rpc.errors import WhisperdError
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.errors import absent, no_place_for_recordings, not_a_folder
from whisperd.watch.mounts import file_system_of, is_of_the_system
from whisperd.watch.preset import WatchChanges, WatchPreset, changed, invalid

__all__ = ["Editor", "checked_inode", "normal"]

DESTINATIONS: Final = ("output_dir", "move_to")
"""Fields that name a folder to write to."""


class Editor:
    """Changes watches. It is told what the rest of the daemon knows of the names in them."""

    def __init__(
        self,
        check_options: Callable[[dict[str, Any]], object],
        runtime_id: Callable[[str], str],
        runtime_name: Callable[[str], str],
        check_profile: Callable[[str], object],
        check_model: Callable[[str], Awaitable[object]],
    ) -> None:
        """All but `runtime_name` raise `WhisperdError` for what cannot be."""
        self.runtime_name = runtime_name
        self._check_options = check_options
        self._runtime_id = runtime_id
        self._check_profile = check_profile
        self._check_model = check_model

    async def changed(self, preset: WatchPreset, changes: WatchChanges) -> WatchPreset:
        """The watch with these changes. Raises `watch.invalid`, and what is wrong with what they name."""
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
            raise invalid("move_to", "Recordings cannot be moved to where they are.", "Name another folder.")
        return after


def normal(path: str) -> str:
    """A path as it is kept; one that is not absolute is refused later."""
    return os.path.normpath(path) if os.path.isabs(path) else path


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


async def _check_destination(field: str, path: str) -> None:
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
