"""Getting everything that a worker needs: the best variant's bundle, and the model's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whisperd.models import ModelStore
from whisperd.natives import Bundle, NativeStore
from whisperd.plugins import Backend, Variant, variants
from whisperd.progress import OnProgress
from whisperd.rpc.errors import WhisperdError

__all__ = ["Prepared", "best_variant", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Where everything is that a worker needs."""

    backend: Backend
    variant: Variant
    bundle_path: Path | None
    model_path: Path


async def prepare(
    model: str,
    natives: NativeStore,
    models: ModelStore,
    on_native_progress: OnProgress,
    on_model_progress: OnProgress,
) -> Prepared:
    """Install what is missing and download the model, with progress.

    Raises `WhisperdError` of the natives and the models rooms.
    """
    backend, variant = best_variant()
    bundle_path = None
    if variant.lock is not None:
        bundle_path = (await natives.install(Bundle(variant.name, variant.lock), on_native_progress)).path
    installed = await models.pull(model, on_model_progress)
    return Prepared(backend, variant, bundle_path, Path(installed.path))


def best_variant() -> tuple[Backend, Variant]:
    """The variant of the highest priority. Raises `backend.none` if no backend is installed."""
    ranked = variants()
    if not ranked:
        raise WhisperdError(
            "backend.none",
            "No backend is installed.",
            "Install one: `pip install whisperd-ctranslate2` into the environment of whisperd.",
        )
    return ranked[0]
