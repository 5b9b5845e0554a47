"""What a person sets of a watch, held against what there is."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from whisperd.watch.preset import WatchChanges, WatchPreset, changed, invalid

__all__ = ["Editor", "normal"]


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
        changes = msgspec.structs.replace(
            changes,
            **{
                field: normal(value)
                for field in ("output_dir", "move_to")
                if isinstance(value := getattr(changes, field), str)
            },
        )
        after = changed(preset, changes)
        if after.output_dir == after.path:
            after = msgspec.structs.replace(after, output_dir=None)
        if after.move_to == after.path:
            raise invalid("move_to", "Recordings cannot be moved to where they are.", "Name another folder.")
        return after


def normal(path: str) -> str:
    """A path as it is kept; one that is not absolute is refused later."""
    return os.path.normpath(path) if os.path.isabs(path) else path
