"""Runtimes whose model is one file in a backend's own format: the choices that such a file allows. Pure.

Only backends with that format can load it, and its stored precision decides the compute type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
from msgspec import UNSET

from whisperd.models import backends_for
from whisperd.plugins import Backend, ModelFacts, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.preset import RuntimeChanges, RuntimePreset

__all__ = ["as_stored", "narrowed", "variants_for"]


def as_stored(changes: RuntimeChanges, facts: ModelFacts | None) -> RuntimeChanges:
    """Return the changes with compute type `auto` for such a file; the settings' one is for other models."""
    if facts is None or changes.compute_type is not UNSET:
        return changes
    return msgspec.structs.replace(changes, compute_type="auto")


def narrowed(preset: RuntimePreset, facts: ModelFacts | None) -> RuntimePreset:
    """Return a preset with its backend set if only one can load its model.

    Raises `runtime.invalid` if the preset asks for a backend or compute type that does not match the file,
    and `backend.not_usable` if no installed backend loads it.
    """
    if facts is None:
        return preset
    names = [backend.name for backend in backends_for(facts)]
    if not names:
        raise _not_usable(preset, facts)
    if preset.backend not in ("auto", *names):
        raise WhisperdError(
            "runtime.invalid",
            f"The backend {preset.backend} cannot load {preset.model}, a file in {facts.format} format.",
            f"Use auto or {' or '.join(names)}.",
            {"field": "backend", "possible": ("auto", *names)},
        )
    if preset.compute_type not in ("auto", facts.compute_type):
        raise WhisperdError(
            "runtime.invalid",
            f"{preset.model} is stored as {facts.precision} and cannot be computed in {preset.compute_type}.",
            f"Use auto or {facts.compute_type}.",
            {"field": "compute_type", "possible": ("auto", facts.compute_type)},
        )
    only = names[0] if len(names) == 1 else preset.backend
    return msgspec.structs.replace(preset, backend=only, compute_type="auto")


def variants_for(
    preset: RuntimePreset, facts: ModelFacts | None, usable: Sequence[tuple[Backend, Variant]]
) -> list[tuple[Backend, Variant]]:
    """Return the variants that load a preset's model, in order. Raises `backend.not_usable` if none does."""
    if facts is None:
        return list(usable)
    names = {backend.name for backend in backends_for(facts)}
    able = [
        (backend, replace(variant, compute_types=(facts.compute_type,)))
        for backend, variant in usable
        if backend.name in names
    ]
    if not able:
        raise _not_usable(preset, facts)
    return able


def _not_usable(preset: RuntimePreset, facts: ModelFacts) -> WhisperdError:
    return WhisperdError(
        "backend.not_usable",
        f"No usable backend loads {preset.model}, a file in {facts.format} format.",
        "Use another model, or see what each backend needs with `whisperctl hardware`.",
    )
