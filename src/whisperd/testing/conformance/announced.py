"""Checks of a plugin's announcement. They load nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from whisperd.announcement import faults
from whisperd.hardware import CPU_FEATURES
from whisperd.hardware.system import FRAMEWORKS
from whisperd.models.memory import need_bytes
from whisperd.natives.lock import Lock, parse_lock
from whisperd.natives.target import PLATFORMS, PYTHONS, Target
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.testing.conformance.checks import Checks, Failure, Skip

__all__ = ["ANNOUNCED", "Announced", "estimate"]

MODEL_SIZES = (39e6, 74e6, 244e6, 769e6, 1550e6)
"""Parameters of the models from `tiny` to `large-v3`."""


@dataclass
class Announced:
    """A backend and the variant under test."""

    backend: Backend
    variant: Variant


ANNOUNCED: Checks[Announced] = Checks()


@ANNOUNCED
def announcement(announced: Announced) -> None:
    """Names, devices, compute types and the rest are valid."""
    for fault in faults(announced.backend, announced.backend.name):
        raise Failure(fault)


@ANNOUNCED
def priorities(announced: Announced) -> None:
    """No two variants have the same priority, so that their order is defined."""
    by_priority: dict[int, str] = {}
    for variant in announced.backend.variants:
        if other := by_priority.get(variant.priority):
            raise Failure(f"{other} and {variant.name} both have priority {variant.priority}")
        by_priority[variant.priority] = variant.name


@ANNOUNCED
def locks(announced: Announced) -> None:
    """Every lock can be read, and is complete for at least one computer."""
    locked = [variant for variant in announced.backend.variants if variant.lock is not None]
    if not locked:
        raise Skip("no variant has a native bundle")
    for variant in locked:
        lock = parse_lock(variant.lock or "")
        if not any(_serves(lock, *target) for target in itertools.product(PLATFORMS, PYTHONS)):
            raise Failure(f"the lock of {variant.name} is not complete for any platform and Python version")


def _serves(lock: Lock, platform: str, python: str) -> bool:
    try:
        lock.select(Target.known(platform, python))
    except WhisperdError:
        return False
    return True


@ANNOUNCED
def needs(announced: Announced) -> None:
    """The needs of variants use only names that whisperd defines."""
    for variant in announced.backend.variants:
        wanted = variant.needs
        for names, known in (
            (wanted.platforms, PLATFORMS),
            (wanted.cpu_features, CPU_FEATURES),
            (wanted.frameworks, FRAMEWORKS),
        ):
            if unknown := [name for name in names if name not in known]:
                raise Failure(
                    f"{variant.name} needs the unknown {unknown[0]}; the known names are {', '.join(known)}"
                )
        if wanted.cuda is not None and variant.device != "cuda":
            raise Failure(f"{variant.name} needs CUDA, but its device is {variant.device}")


@ANNOUNCED
def memory_estimate(announced: Announced) -> None:
    """More parameters, a larger batch and more replicas never need less memory."""
    variant = announced.variant
    kind = variant.compute_types[0]

    def estimated(parameters: float = 74e6, batch_size: int = 4, replicas: int = 1) -> int:
        return estimate(announced, parameters, kind, batch_size=batch_size, replicas=replicas)

    series: dict[str, list[int]] = {
        "parameters": [estimated(parameters=size) for size in MODEL_SIZES],
        "batch_size": [estimated(batch_size=size) for size in (1, 2, 4, 8, 16)],
        "replicas": [estimated(replicas=count) for count in (1, 2, 4, 8)],
    }
    for name, values in series.items():
        if values != sorted(values):
            raise Failure(f"need_bytes decreases as {name} grows: {values}")
    if series["parameters"][0] == series["parameters"][-1]:
        raise Failure("need_bytes is the same for the smallest and the largest model")


def estimate(
    announced: Announced, parameters: float, compute_type: str, *, batch_size: int, replicas: int
) -> int:
    """Return the backend's estimate of a model's memory, in bytes. Raises `Failure` if it gives none."""
    function: Callable[..., object] = announced.backend.need_bytes or need_bytes
    try:
        value = function(
            parameters,
            compute_type,
            batch_size=batch_size,
            replicas=replicas,
            device=announced.variant.device,
        )
    except Exception as error:
        raise Failure(f"need_bytes raises {type(error).__name__}: {error}") from error
    if not isinstance(value, int) or value <= 0:
        raise Failure(f"need_bytes returns {value!r}, which is not a number of bytes")
    return value
