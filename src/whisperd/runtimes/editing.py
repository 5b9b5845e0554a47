"""What a person sets of a runtime, held against what there is."""

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
    """Makes and changes presets, and saves none of them."""

    def __init__(self, provisioner: Provisioner, settings: Callable[[], RuntimeSettings]) -> None:
        self._models = provisioner.models
        self._computer = provisioner.computer
        self._settings = settings

    async def new(self, fields: RuntimeChanges, saved: Iterable[RuntimePreset]) -> RuntimePreset:
        """One that is to be saved beside others.

        Raises `runtime.invalid`, `runtime.exists`, and what is wrong with its model.
        """
        preset = new_preset(await self._with_known_model(fields), self._settings())
        await self._check(preset)
        _check_free(preset, saved)
        return preset

    async def changed(
        self, preset: RuntimePreset, changes: RuntimeChanges, saved: Iterable[RuntimePreset]
    ) -> RuntimePreset:
        """The preset with these changes, the very same one if nothing is different. Raises as `new`.

        What this computer can do matters only to what has to be loaded anew.
        """
        after = changed_preset(preset, await self._with_known_model(changes))
        if needs_reload(preset, after):
            await self._check(after)
        _check_free(after, saved)
        return after

    def for_once(self, model: str, facts: ModelFacts | None) -> RuntimePreset:
        """One that is not saved, with a model that is known: it is not checked."""
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
    """Whoever names a runtime, by name or by id, is to mean one."""
    for one in saved:
        if one.id != preset.id and {one.id, one.name} & {preset.id, preset.name}:
            raise errors.exists("runtime", preset.name, one.name)
