"""Preparing what a worker of a variant needs: its bundle and the model's files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import msgspec

from whisperd.hardware import usable_cores
from whisperd.models import InstalledModel, ModelStore
from whisperd.natives import Bundle, NativeStore
from whisperd.plugins import Backend, ModelFormat, Variant
from whisperd.progress import OnProgress
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.errors import no_backend
from whisperd.runtimes.fallback import FailedVariant
from whisperd.runtimes.preset import RuntimePreset
from whisperd.worker.protocol import MAX_REPLICAS, LoadParams

__all__ = [
    "Prepared",
    "Tuning",
    "compute_type",
    "fitting_variants",
    "install_bundle",
    "is_model_prepared",
    "load_params",
    "prepare_model",
    "prepare_variant",
    "with_fewer_workers",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """The fastest values measured on this computer; they apply where a preset leaves the choice open."""

    workers: int
    cpu_threads: int
    batch_size: int
    context_margin_s: float


@dataclass(frozen=True)
class Prepared:
    """Everything that a worker needs, and where it is."""

    backend: Backend
    variant: Variant
    bundle_path: Path | None
    model_path: Path
    tuning: Tuning | None = None
    """None if nothing was measured."""
    passed_over: tuple[FailedVariant, ...] = ()
    """Better variants that failed; the best first."""
    has_others: bool = False
    """Whether there is another variant to try if this one cannot be loaded."""
    precision: str | None = None
    """The stored precision of a model that is one file in the backend's own format; None for all others."""
    is_unconverted: bool = False
    """Whether the engine must convert the model at each load instead of once, which takes more memory."""


async def prepare_variant(
    preset: RuntimePreset,
    backend: Backend,
    variant: Variant,
    natives: NativeStore,
    models: ModelStore,
    on_native_progress: OnProgress,
    on_model_progress: OnProgress,
) -> Prepared:
    """Install everything that a worker of one variant needs. Raises `WhisperdError`."""
    bundle_path = await install_bundle(variant, natives, on_native_progress)
    model = await models.pull(preset.model, on_model_progress)
    return await prepare_model(preset, backend, variant, bundle_path, model, models, on_model_progress)


async def install_bundle(variant: Variant, natives: NativeStore, on_progress: OnProgress) -> Path | None:
    """Install a variant's bundle if necessary and return its path; None if the variant needs none."""
    bundle = Bundle.of(variant)
    return (await natives.install(bundle, on_progress)).path if bundle else None


async def prepare_model(
    preset: RuntimePreset,
    backend: Backend,
    variant: Variant,
    bundle_path: Path | None,
    model: InstalledModel,
    models: ModelStore,
    on_progress: OnProgress,
) -> Prepared:
    """Convert an installed model into the backend's own format if necessary; return what a worker needs."""
    precision = compute_type(preset, variant)
    format = _format_for(backend, variant, model, precision)
    path, is_unconverted = Path(model.path), False
    if format is not None:
        try:
            path = await models.convert(model.name, format, precision, bundle_path, on_progress)
        except WhisperdError as error:
            if format.replaces is None:
                raise
            log.warning("%s is loaded unconverted, which takes longer: %s", model.name, error.message)
            is_unconverted = True
    stored = model.facts.precision if model.facts else None
    return Prepared(backend, variant, bundle_path, path, precision=stored, is_unconverted=is_unconverted)


async def is_model_prepared(
    preset: RuntimePreset, backend: Backend, variant: Variant, models: ModelStore
) -> bool:
    """Whether a model is installed in a form that the backend can load."""
    model = await models.find(preset.model)
    if model is None:
        return False
    precision = compute_type(preset, variant)
    format = _format_for(backend, variant, model, precision)
    if format is None or format.replaces is not None:
        return True
    return await models.converted(model.name, format, precision) is not None


def _format_for(
    backend: Backend, variant: Variant, model: InstalledModel, precision: str
) -> ModelFormat | None:
    """Return the format that a model must be converted to; None if the backend loads it unconverted."""
    is_ready = model.facts is not None or not variant.takes_converted(precision)
    return None if is_ready else backend.model_format


def compute_type(preset: RuntimePreset, variant: Variant) -> str:
    """Return the preset's compute type or, if it is `auto`, the variant's best one."""
    return variant.compute_types[0] if preset.compute_type == "auto" else preset.compute_type


def fitting_variants(
    preset: RuntimePreset, ranked: Sequence[tuple[Backend, Variant]]
) -> list[tuple[Backend, Variant]]:
    """Return the variants that a preset allows, the best first as in `ranked`.

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
        f"No build fits the runtime {preset.name}: backend {preset.backend}, device {preset.wanted_device}, "
        f"compute type {preset.compute_type}.",
        f"Change one of these with `whisperctl runtimes edit {quote(preset.name)}`, or change "
        f"`runtime.compute_type` in the settings. Available builds: {names}.",
    )


def load_params(preset: RuntimePreset, prepared: Prepared) -> LoadParams:
    """Return a worker's load parameters, with the preset's open choices made for this computer."""
    variant, tuning = prepared.variant, prepared.tuning
    is_cpu = variant.device == "cpu"
    device_index = (0,) if is_cpu else preset.device_index or (0,)
    # On few cores, single-threaded replicas usually beat threads. Each of several GPUs gets one replica.
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


def with_fewer_workers(preset: RuntimePreset, params: LoadParams) -> LoadParams | None:
    """Return load parameters with half as many workers and as many threads in all, which need less memory.

    None if the preset sets the number of workers, or there is only one for each device.
    """
    least = len(params.device_index)
    if preset.workers or params.replicas <= least:
        return None
    replicas = max(least, params.replicas // 2)
    threads = preset.cpu_threads or params.cpu_threads * params.replicas // replicas
    return msgspec.structs.replace(params, replicas=replicas, cpu_threads=threads)
