"""What this computer can do for a runtime: the variants that it has the hardware for, and its GPUs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from whisperd.hardware import Gpus, find_gpus, gpu_compute_types, read_memory
from whisperd.models.recommend import suitable_model
from whisperd.plugins import Backend, Variant, backends, variants
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.loaded import usable_cores
from whisperd.runtimes.preset import Capabilities, RuntimePreset

__all__ = ["Computer"]


class Computer:
    """Asks the driver only where a GPU matters, for that takes a process."""

    def __init__(self, find_gpus: Callable[[], Awaitable[Gpus]] = find_gpus) -> None:
        self._find_gpus = find_gpus

    async def capabilities(self, preset: RuntimePreset) -> Capabilities:
        """What a preset is checked against."""
        gpus = await self.gpus(preset)
        return Capabilities(
            backends={backend.name: _compute_types(backend, gpus) for backend in backends()},
            gpu_count=len(gpus.gpus),
            gpu_problem=gpus.problem,
            cpu_count=usable_cores(),
        )

    async def usable_variants(self, preset: RuntimePreset) -> list[tuple[Backend, Variant]]:
        """Those that this computer has the hardware for, the best first.

        Raises why there is no GPU if the preset wants one: `cuda.not_available`.
        """
        gpus = await self.gpus(preset)
        if preset.device == "cuda" and not gpus.gpus:
            raise gpus.problem.copy() if gpus.problem else _no_gpu(preset)
        return [pair for pair in variants() if pair[1].device != "cuda" or gpus.gpus]

    async def gpus(self, preset: RuntimePreset) -> Gpus:
        """The GPUs that a preset may use."""
        could_use = preset.device == "auto" and _has_cuda_variant()
        if preset.device == "cuda" or preset.device_index or could_use:
            return await self._find_gpus()
        return Gpus()

    async def first_model(self) -> str:
        """A model that suits this computer, to begin with."""
        gpus = (await self._find_gpus()).gpus if _has_cuda_variant() else ()
        return suitable_model(read_memory().total, gpus)


def _has_cuda_variant() -> bool:
    return any(variant.device == "cuda" for _, variant in variants())


def _compute_types(backend: Backend, gpus: Gpus) -> dict[str, tuple[str, ...]]:
    """By device, what the variants of a backend and the hardware can both compute in."""
    offered: dict[str, tuple[str, ...]] = {}
    for variant in backend.variants:
        kinds = tuple(variant.compute_types)
        if variant.device == "cuda":
            able = {kind for gpu in gpus.gpus for kind in gpu_compute_types(gpu.compute_capability)}
            kinds = tuple(kind for kind in kinds if kind in able)
        offered[variant.device] = tuple(dict.fromkeys((*offered.get(variant.device, ()), *kinds)))
    return offered


def _no_gpu(preset: RuntimePreset) -> WhisperdError:
    return WhisperdError(
        "cuda.not_available",
        "This computer has no NVIDIA GPU that can be used.",
        f"Run it on the processor: `whisperctl runtimes edit {preset.name!r} --device cpu`.",
    )
