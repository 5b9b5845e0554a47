"""Creating and changing presets: checks user input against the models, the computer and other runtimes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from whisperd.plugins import ModelFacts
from whisperd.runtimes import errors
from whisperd.runtimes.file_models import as_stored, narrowed
from whisperd.runtimes.preset import (
    RuntimeChanges,
    RuntimePreset,
    changed_preset,
    check_against,
    needs_reload,
    new_preset,
)
from whisperd.runtimes.provisioner import Provisioner
from whisperd.settings import RuntimeSettings

__all__ = ["Editor"]


class Editor:
    """Creates and changes presets without saving them."""

    def __init__(self, provisioner: Provisioner, settings: Callable[[], RuntimeSettings]) -> None:
        self._models = provisioner.models
        self._computer = provisioner.computer
        self._settings = settings

    async def new(self, fields: RuntimeChanges, saved: Iterable[RuntimePreset]) -> RuntimePreset:
        """Return a new preset, to be saved alongside the `saved` ones.

        Raises `runtime.invalid`, `runtime.exists`, and the errors of its model.
        """
        preset = new_preset(await self._with_known_model(fields), self._settings())
        await self._check(preset)
        _check_free(preset, saved)
        return preset

    async def changed(
        self, preset: RuntimePreset, changes: RuntimeChanges, saved: Iterable[RuntimePreset]
    ) -> RuntimePreset:
        """Return the preset with these changes, or the same object if nothing differs. Raises like `new`.

        It is checked against this computer only if the changes require a reload.
        """
        after = changed_preset(preset, await self._with_known_model(changes))
        if needs_reload(preset, after):
            await self._check(after)
        _check_free(after, saved)
        return after

    def unsaved(self, model: str, facts: ModelFacts | None) -> RuntimePreset:
        """Return an unchecked preset with a known model, for a runtime that is not saved."""
        fields = as_stored(RuntimeChanges(name=model, model=model), facts)
        return new_preset(fields, self._settings(), check=False)

    async def _with_known_model(self, changes: RuntimeChanges) -> RuntimeChanges:
        if not isinstance(changes.model, str):
            return changes
        model = await self._models.describe(changes.model)
        return as_stored(msgspec.structs.replace(changes, model=model.name), model.facts)

    async def _check(self, preset: RuntimePreset) -> None:
        preset = narrowed(preset, await self._models.facts(preset.model))
        check_against(preset, await self._computer.capabilities(preset))


def _check_free(preset: RuntimePreset, saved: Iterable[RuntimePreset]) -> None:
    """Raise `runtime.exists` unless the preset's name and id are distinct from those of all others."""
    for one in saved:
        if one.id != preset.id and {one.id, one.name} & {preset.id, preset.name}:
            raise errors.exists("runtime", preset.name, one.name)
