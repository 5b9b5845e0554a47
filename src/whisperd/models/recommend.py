"""Which model suits a computer. Pure: what the computer has is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec

from whisperd.models.catalogue import CatalogueModel

__all__ = ["GpuMemory", "Recommendation", "recommend", "suitable_model"]

_TURBO_GPU_BYTES: Final = 6 * 10**9
_SMALL_GPU_BYTES: Final = 2_500_000_000
_BASE_BYTES: Final = 2 * 2**30
_USABLE: Final = 0.8
"""Of all memory; the rest is the system's and other programs'."""
_BATCH_SIZE: Final = 4


class GpuMemory(Protocol):
    """What is asked of a GPU, such as `whisperd.hardware.Gpu`."""

    @property
    def memory_total(self) -> int:
        """In bytes."""


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model suits this computer."""

    name: str
    memory: int
    """Bytes that it needs, estimated: of the GPU if there is one, else of the computer."""
    size: int | None
    """Bytes on disk, or to download; None where that is not known."""
    fits: bool
    recommended: bool
    """True for one model."""
    reason: str
    """A few words for a person."""


def suitable_model(memory_total: int, gpus: Sequence[GpuMemory]) -> str:
    """The model to begin with; `gpus` are those that a backend here can compute on, memory in bytes."""
    gpu_total = max((gpu.memory_total for gpu in gpus), default=0)
    # A GPU has speed to spare: its memory is the limit, and it may be a desktop's, too.
    if gpu_total >= _TURBO_GPU_BYTES:
        return "large-v3-turbo"
    if gpu_total >= _SMALL_GPU_BYTES:
        return "small"
    # On a CPU speed is the limit, not memory: `small` would fit almost anywhere, and takes three times
    # as long as `base` for each second of speech.
    return "base" if memory_total >= _BASE_BYTES else "tiny"


def recommend(
    models: Iterable[CatalogueModel], memory_total: int, gpus: Sequence[GpuMemory]
) -> tuple[Recommendation, ...]:
    """What there is to say of each model, in the order given. Memory in bytes; `gpus` as above."""
    models = tuple(models)
    best = suitable_model(memory_total, gpus)
    best_parameters = next(model.parameters_millions for model in models if model.name == best)
    on_gpu = best in ("large-v3-turbo", "small")
    total = max(gpu.memory_total for gpu in gpus) if on_gpu else memory_total
    device, compute_type = ("cuda", "float16") if on_gpu else ("cpu", "int8")

    def judge(model: CatalogueModel) -> Recommendation:
        memory = model.memory_bytes(compute_type, batch_size=_BATCH_SIZE, device=device)
        fits = memory <= total * _USABLE
        if model.name == best:
            reason = "best balance on this GPU" if on_gpu else "best balance on this processor"
        elif not fits:
            reason = "needs more memory than there is"
        elif model.parameters_millions > best_parameters:
            reason = "slower, more words right"
        elif model.parameters_millions < best_parameters:
            reason = "faster, fewer words right"
        else:
            reason = "as fast"
        if model.english_only and fits:
            reason += "; English"
        return Recommendation(
            name=model.name,
            memory=memory,
            size=model.size_bytes,
            fits=fits,
            recommended=model.name == best,
            reason=reason,
        )

    return tuple(judge(model) for model in models)
