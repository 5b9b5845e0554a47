"""What child processes say of this computer, each in lines of JSON."""

from __future__ import annotations

import msgspec

__all__ = ["DriverAnswer", "FactAnswer", "SeenGpu", "SeenInstance"]


class SeenInstance(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a GPU that is divided (multi-instance GPU, MIG). Sizes in bytes."""

    name: str
    uuid: str
    """Such as `MIG-` and a UUID."""
    ids: tuple[int, int]
    """Of the GPU instance and the compute instance: with older drivers, it is named by these."""
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
    """The parts that it is divided into; None where it is whole."""


class DriverAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All that the driver said."""

    driver: str | None = None
    """Its version."""
    cuda: int | None = None
    """The newest CUDA that it can do: 12040 is 12.4."""
    gpus: tuple[SeenGpu | None, ...] = ()
    """In the order of the PCI bus; None for one that does not answer."""
    has_library: bool = True
    error: int | None = None
    """The code with which the library refused."""


class FactAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A fact, as the child that looks at this computer says it."""

    name: str
    fact: msgspec.Raw
    why: str | None = None
    """Why it is not known."""
