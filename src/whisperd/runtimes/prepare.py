"""Getting everything that a worker needs: the best variant's bundle, and the model's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whisperd.models import ModelStore
from whisperd.natives import Bundle, NativeStore
from whisperd.plugins import Backend, Variant
from whisperd.progress import OnProgress
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.loaded import usable_cores
from whisperd.runtimes.preset import RuntimePreset
from whisperd.worker.protocol import LoadParams

__all__ = ["Prepared", "choose_variant", "is_prepared", "load_params", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Where everything is that a worker needs."""

    backend: Backend
    variant: Variant
    bundle_path: Path | None
    model_path: Path


async def prepare(
    preset: RuntimePreset,
    usable: Sequence[tuple[Backend, Variant]],
    natives: NativeStore,
    models: ModelStore,
    on_native_progress: OnProgress,
    on_model_progress: OnProgress,
) -> Prepared:
    """Install what is missing of the first usable variant that fits, and download the model, with progress.

    Raises `WhisperdError` of the natives and the models rooms, and like `choose_variant`.
    """
    backend, variant = choose_variant(preset, usable)
    bundle_path = None
    if variant.lock is not None:
        bundle_path = (await natives.install(Bundle(variant.name, variant.lock), on_native_progress)).path
    installed = await models.pull(preset.model, on_model_progress)
    return Prepared(backend, variant, bundle_path, Path(installed.path))


async def is_prepared(
    preset: RuntimePreset,
    usable: Sequence[tuple[Backend, Variant]],
    natives: NativeStore,
    models: ModelStore,
) -> bool:
    """Whether it can be loaded without downloading anything. Raises like `choose_variant`."""
    _, variant = choose_variant(preset, usable)
    if variant.lock is not None and natives.find(Bundle(variant.name, variant.lock)) is None:
        return False
    return await models.find(preset.model) is not None


def choose_variant(
    preset: RuntimePreset, ranked: Sequence[tuple[Backend, Variant]]
) -> tuple[Backend, Variant]:
    """The first that a preset allows, of variants in the order of their priority.

    Raises `backend.none` if there is no backend at all, `backend.not_usable` if none fits.
    """
    if not ranked:
        raise WhisperdError(
            "backend.none",
            "No backend is installed.",
            "Install one: `pip install whisperd-ctranslate2` into the environment of whisperd.",
        )
    for backend, variant in ranked:
        is_backend = preset.backend in ("auto", backend.name)
        is_device = preset.device in ("auto", variant.device)
        is_type = preset.compute_type in ("auto", *variant.compute_types)
        if is_backend and is_device and is_type:
            return backend, variant
    names = ", ".join(variant.name for _, variant in ranked)
    raise WhisperdError(
        "backend.not_usable",
        f"There is no build for {preset.name}: backend {preset.backend}, device {preset.device}, "
        f"compute type {preset.compute_type}.",
        f"Change one of them with `whisperctl runtimes edit {preset.name!r}`; the builds are: {names}.",
    )


def load_params(preset: RuntimePreset, prepared: Prepared) -> LoadParams:
    """What a worker is told: what the preset leaves open is chosen for this computer."""
    variant = prepared.variant
    is_cpu = variant.device == "cpu"
    device_index = (0,) if is_cpu else preset.device_index or (0,)
    # Measured: on few cores, replicas of one thread beat threads. Of several GPUs each has one replica.
    workers = preset.workers or (usable_cores() if is_cpu else len(device_index))
    return LoadParams(
        model_path=str(prepared.model_path),
        model_name=preset.model,
        bundle_name=variant.name if prepared.bundle_path else None,
        device=variant.device,
        device_index=device_index,
        compute_type=variant.compute_types[0] if preset.compute_type == "auto" else preset.compute_type,
        cpu_threads=preset.cpu_threads or 1,
        replicas=workers,
    )
