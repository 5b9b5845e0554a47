"""Getting everything that a worker of a variant needs: its bundle, and the model's files."""

from __future__ import annotations

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


async def prepare_variant(
    preset: RuntimePreset,
    backend: Backend,
    variant: Variant,
    natives: NativeStore,
    models: ModelStore,
    on_native_progress: OnProgress,
    on_model_progress: OnProgress,
) -> Prepared:
    """Get everything that a worker of one variant needs. Raises `WhisperdError`."""
    bundle_path = await install_bundle(variant, natives, on_native_progress)
    model = await models.pull(preset.model, on_model_progress)
    return await prepare_model(preset, backend, variant, bundle_path, model, models, on_model_progress)


async def install_bundle(variant: Variant, natives: NativeStore, on_progress: OnProgress) -> Path | None:
    """Where the bundle of a variant is, installed first if need be; None where it needs none."""
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
    """What a worker needs, with an installed model as it is, or in the backend's own format."""
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
    """Whether a model is here in a way in which it can be loaded."""
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
    """The format that a backend takes a model in; None where it loads it as it is."""
    is_ready = model.facts is not None or not variant.takes_converted(precision)
    return None if is_ready else backend.model_format


def compute_type(preset: RuntimePreset, variant: Variant) -> str:
    """What a preset asks for, else the best that a variant has."""
    return variant.compute_types[0] if preset.compute_type == "auto" else preset.compute_type


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
        f"No build fits the runtime {preset.name}: backend {preset.backend}, device {preset.wanted_device}, "
        f"compute type {preset.compute_type}.",
        f"Change one of these with `whisperctl runtimes edit {quote(preset.name)}`, or change "
        f"`runtime.compute_type` in the settings. Available builds: {names}.",
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
