"""Messages that the detection processes print, each as a line of JSON."""

from __future__ import annotations

import msgspec

__all__ = ["DriverAnswer", "FactAnswer", "SeenGpu", "SeenInstance"]


class SeenInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance of a partitioned GPU (multi-instance GPU, MIG). Sizes in bytes."""

    name: str
    uuid: str
    """Such as `MIG-` and a UUID."""
    ids: tuple[int, int]
    """The ids of the GPU instance and the compute instance, by which older drivers name it."""
    memory_total: int
    memory_free: int


class SeenGpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU, as the driver describes it. Sizes in bytes."""

    name: str
    uuid: str
    memory_total: int
    memory_free: int
    compute_capability: tuple[int, int]
    instances: tuple[SeenInstance, ...] | None = None
    """Its MIG instances; None if it is not partitioned."""


class DriverAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The driver's complete answer."""

    driver: str | None = None
    """Its version."""
    cuda: int | None = None
    """The newest CUDA version that it supports: 12040 is 12.4."""
    gpus: tuple[SeenGpu | None, ...] = ()
    """In PCI bus order; None for one that does not respond."""
    has_library: bool = True
    error: int | None = None
    """The NVML error code with which the query failed."""


class FactAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A fact, as the detection process reports it."""

    name: str
    fact: msgspec.Raw
    why: str | None = None
    """Why the fact is unknown."""
