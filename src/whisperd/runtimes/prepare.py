"""Getting everything that a worker needs: the best variant's bundle, and the model's files."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from whisperd.hardware import usable_cores
from whisperd.models import InstalledModel, ModelStore
from whisperd.natives import Bundle, NativeStore
from whisperd.plugins import Backend, ModelFormat, Variant
from whisperd.progress import OnProgress
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.errors import no_backend
from whisperd.runtimes.fallback import (
    FailedVariant,
    VariantFailures,
    first_failure,
    needs_no_download,
    rules_out,
)
from whisperd.runtimes.preset import RuntimePreset
from whisperd.worker.protocol import MAX_REPLICAS, LoadParams

__all__ = [
    "Prepared",
    "Tuning",
    "choose_variant",
    "compute_type",
    "fitting_variants",
    "is_prepared",
    "load_params",
    "prepare",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """What was measured to be the fastest on this computer; it counts where a preset leaves it open."""

    workers: int
    cpu_threads: int
    batch_size: int
    context_margin_s: float


@dataclass(frozen=True)
class Prepared:
    """Where everything is that a worker needs."""

    backend: Backend
    variant: Variant
    bundle_path: Path | None
    model_path: Path
    tuning: Tuning | None = None
    """None where nothing was measured."""
    passed_over: tuple[FailedVariant, ...] = ()
    """What would have been better, and failed; the best first."""
    has_others: bool = False
    """Whether there is another variant to try if this one cannot be loaded."""
    precision: str | None = None
    """How a model is stored that is one file in the backend's own format; None of all others."""
    is_unconverted: bool = False
    """Whether the engine has to do at each load what is usually done once: that takes more memory."""


async def prepare(
    preset: RuntimePreset,
    usable: Sequence[tuple[Backend, Variant]],
    natives: NativeStore,
    models: ModelStore,
    on_native_progress: OnProgress,
    on_model_progress: OnProgress,
    failures: VariantFailures | None = None,
    failed: Sequence[FailedVariant] = (),
) -> Prepared:
    """Install what is missing of the best usable variant that can be had, and download the model.

    `failures` are remembered from earlier loads, `failed` those that could not be loaded in this one. Raises
    `WhisperdError` of the natives and the models rooms, and like `fitting_variants`; where no variant can be
    had, why the first cannot that was tried.
    """
    failures = failures or VariantFailures()
    fitting = fitting_variants(preset, usable)
    remembered = [found for _, one in fitting if (found := await failures.find(preset.model, one))]
    candidates = _remembered_last(fitting, remembered)
    tried = list(failed)
    while candidates := [pair for pair in candidates if not any(rules_out(one, pair[1]) for one in tried)]:
        backend, variant = candidates.pop(0)
        bundle = Bundle.of(variant)
        try:
            if bundle is not None and needs_no_download(tried) and natives.find(bundle) is None:
                continue
            bundle_path = (await natives.install(bundle, on_native_progress)).path if bundle else None
        except WhisperdError as error:
            tried.append(_failed(preset, variant, error))
            continue
        await failures.note(preset.model, tried[len(failed) :])
        model = await models.pull(preset.model, on_model_progress)
        precision = compute_type(preset, variant)
        try:
            model_path, is_unconverted = await _path_for(
                backend, variant, model, precision, bundle_path, models, on_model_progress
            )
        except WhisperdError as error:
            tried.append(_failed(preset, variant, error))
            # Its other variants need the same file.
            candidates = [pair for pair in candidates if pair[0].name != backend.name]
            continue
        return Prepared(
            backend,
            variant,
            bundle_path,
            model_path,
            precision=model.facts.precision if model.facts else None,
            is_unconverted=is_unconverted,
            passed_over=_better_than(variant, fitting, [*tried, *remembered]),
            has_others=bool(candidates),
        )
    raise first_failure(tried)


async def _path_for(
    backend: Backend,
    variant: Variant,
    model: InstalledModel,
    precision: str,
    bundle_path: Path | None,
    models: ModelStore,
    on_progress: OnProgress,
) -> tuple[Path, bool]:
    """Where the engine of a backend finds a model: as it is, or in the backend's own format; and whether it
    should have been in that, and is not.
    """
    format = _format_for(backend, variant, model, precision)
    if format is None:
        return Path(model.path), False
    try:
        return await models.convert(model.name, format, precision, bundle_path, on_progress), False
    except WhisperdError as error:
        if format.replaces is None:
            raise
        log.warning("%s is loaded as it is, which takes longer: %s", model.name, error.message)
        return Path(model.path), True


def _format_for(
    backend: Backend, variant: Variant, model: InstalledModel, precision: str
) -> ModelFormat | None:
    """The format that a backend takes a model in; None where it loads it as it is."""
    is_ready = model.facts is not None or not variant.takes_converted(precision)
    return None if is_ready else backend.model_format


def _failed(preset: RuntimePreset, variant: Variant, error: WhisperdError) -> FailedVariant:
    log.warning("runtime %s: %s: %s (%s)", preset.name, variant.name, error.message, error.code)
    return FailedVariant(variant, error)


def _remembered_last(
    fitting: Sequence[tuple[Backend, Variant]], remembered: Sequence[FailedVariant]
) -> list[tuple[Backend, Variant]]:
    """First those of which no earlier failure tells that they fail as well."""
    return sorted(fitting, key=lambda pair: any(rules_out(one, pair[1]) for one in remembered))


def _better_than(
    variant: Variant, fitting: Sequence[tuple[Backend, Variant]], failed: Sequence[FailedVariant]
) -> tuple[FailedVariant, ...]:
    """The failures of those that come before a variant, in their order."""
    by_name = {one.variant.name: one for one in reversed(failed)}
    before = itertools.takewhile(lambda pair: pair[1].name != variant.name, fitting)
    return tuple(by_name[one.name] for _, one in before if one.name in by_name)


async def is_prepared(
    preset: RuntimePreset,
    usable: Sequence[tuple[Backend, Variant]],
    natives: NativeStore,
    models: ModelStore,
) -> bool:
    """Whether all is here that it cannot be loaded without. Raises like `choose_variant`."""
    backend, variant = choose_variant(preset, usable)
    bundle = Bundle.of(variant)
    if bundle is not None and natives.find(bundle) is None:
        return False
    model = await models.find(preset.model)
    if model is None:
        return False
    precision = compute_type(preset, variant)
    format = _format_for(backend, variant, model, precision)
    if format is None or format.replaces is not None:
        return True
    return await models.converted(model.name, format, precision) is not None


def compute_type(preset: RuntimePreset, variant: Variant) -> str:
    """What a preset asks for, else the best that a variant has."""
    return variant.compute_types[0] if preset.compute_type == "auto" else preset.compute_type


def choose_variant(
    preset: RuntimePreset, ranked: Sequence[tuple[Backend, Variant]]
) -> tuple[Backend, Variant]:
    """The first that a preset allows, of variants with the best first. Raises like `fitting_variants`."""
    return fitting_variants(preset, ranked)[0]


def fitting_variants(
    preset: RuntimePreset, ranked: Sequence[tuple[Backend, Variant]]
) -> list[tuple[Backend, Variant]]:
    """All that a preset allows, of variants with the best first.

    Raises `backend.none` if there is no backend at all, `backend.not_usable` if none fits.
    """
    if not ranked:
        raise no_backend()
    fitting = [
        (backend, variant)
        for backend, variant in ranked
        if preset.backend in ("auto", backend.name)
        and preset.wanted_device in ("auto", variant.device)
        and preset.compute_type in ("auto", *variant.compute_types)
    ]
    if fitting:
        return fitting
    names = ", ".join(variant.name for _, variant in ranked)
    raise WhisperdError(
        "backend.not_usable",
        f"There is no build for {preset.name}: backend {preset.backend}, device {preset.wanted_device}, "
        f"compute type {preset.compute_type}.",
        f"Change one of them with `whisperctl runtimes edit {quote(preset.name)}`, or "
        f"`runtime.compute_type` in the settings; the builds are: {names}.",
    )


def load_params(preset: RuntimePreset, prepared: Prepared) -> LoadParams:
    """What a worker is told: what the preset leaves open is chosen for this computer."""
    variant, tuning = prepared.variant, prepared.tuning
    is_cpu = variant.device == "cpu"
    device_index = (0,) if is_cpu else preset.device_index or (0,)
    # On few cores, replicas of one thread usually beat threads. Of several GPUs each has one replica.
    usual_workers = usable_cores() if is_cpu else len(device_index)
    return LoadParams(
        model_path=str(prepared.model_path),
        model_name=preset.model,
        bundle_name=variant.name if prepared.bundle_path else None,
        device=variant.device,
        device_index=device_index,
        compute_type=compute_type(preset, variant),
        cpu_threads=preset.cpu_threads or (tuning.cpu_threads if tuning else 1),
        replicas=min(MAX_REPLICAS, preset.workers or (tuning.workers if tuning else usual_workers)),
        context_margin_s=tuning.context_margin_s if tuning else None,
    )
