"""What the child that asks NVIDIA's driver says: one line of JSON."""

from __future__ import annotations

import msgspec

__all__ = ["DriverAnswer", "SeenGpu"]


class SeenGpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU, as the driver describes it. Sizes in bytes."""

    name: str
    uuid: str
    memory_total: int
    memory_free: int
    compute_capability: tuple[int, int]


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
