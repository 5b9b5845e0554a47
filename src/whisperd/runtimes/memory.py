"""Decides whether a runtime fits into memory, and what to unload so that it does. Pure.

`whisperd.models.memory.need_bytes` estimates how much a model needs, `whisperd.hardware` reports how much is
free. All sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote

from whisperd.models import CatalogueModel
from whisperd.quantities import size
from whisperd.rpc.errors import WhisperdError

__all__ = ["largest_that_fits", "not_enough_memory", "plan"]


def plan(need: int, free: int, idle: Iterable[tuple[str, int]]) -> tuple[list[str], int]:
    """Return which idle runtimes to unload so that `need` fits, and how much memory is free then.

    `idle` holds names and the memory that each frees. They are taken in this order until `need` fits; all of
    them are if it never does.
    """
    leaving: list[str] = []
    for name, gives_back in idle:
        if need <= free:
            break
        free += gives_back
        leaving.append(name)
    return leaving, free


def largest_that_fits(
    models: Iterable[CatalogueModel],
    free: int,
    *,
    compute_type: str = "int8",
    batch_size: int = 4,
    replicas: int = 1,
    device: str = "cpu",
    english_only: bool = False,
) -> str | None:
    """Return the model with the most parameters that fits; of several, the last, which is the newest.

    English-only models are considered only if `english_only` is true.
    """
    fitting = [
        model
        for model in models
        if (english_only or not model.english_only)
        and model.memory_bytes(compute_type, batch_size=batch_size, replicas=replicas, device=device) <= free
    ]
    # Reversed, because `max` returns the first of several.
    return max(reversed(fitting), key=lambda model: model.parameters_millions).name if fitting else None


def not_enough_memory(
    name: str,
    needed: int,
    free: int,
    largest: str | None,
    *,
    is_on_gpu: bool = False,
    batch_size: int = 1,
    replicas: int = 1,
    is_saved: bool = True,
) -> WhisperdError:
    """Return the error for a runtime that does not fit into the computer's memory (`memory.not_enough`) or
    the GPU's (`memory.gpu_not_enough`). Its fix proposes changes only for a saved runtime."""
    ways = []
    if largest is not None:
        edit = f"whisperctl runtimes edit {quote(name)} " if is_saved else ""
        ways.append(f"use {largest}, the largest model that fits, with `{edit}--model {largest}`")
    if batch_size > 1 and is_saved:
        ways.append("use smaller batches with `--batch-size 1`")
    if replicas > 1 and is_saved:
        ways.append("use one worker with `--workers 1`")
    ways.append("unload other runtimes")
    if is_on_gpu and is_saved:
        ways.append("use the CPU with `--device cpu`")
    else:
        ways.append("close programs that use a lot of memory")
    fix = f"{', '.join(ways[:-1])}, or {ways[-1]}."
    return WhisperdError(
        "memory.gpu_not_enough" if is_on_gpu else "memory.not_enough",
        f"The runtime {name} needs about {size(needed)} of {'GPU ' if is_on_gpu else ''}memory, but only "
        f"{size(free)} is free.",
        fix[0].upper() + fix[1:],
        {"needed": needed, "free": free, "largest": largest},
    )
