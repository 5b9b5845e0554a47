"""Read how much memory this process may use, and how much of it is free.

In a container that is what its control groups allow, not what the computer has.
The page cache counts as free, because the kernel reclaims it when memory is requested.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import psutil

from whisperd.hardware.cgroups import count, group_folders
from whisperd.hardware.files import ReadFile, read_file

__all__ = ["Memory", "memory_within", "read_memory", "system_memory"]


@dataclass(frozen=True)
class Memory:
    """Total and available memory, in bytes."""

    total: int
    available: int
    """How much can be allocated without swapping."""
    source: str = field(default="the system", compare=False)
    """What sets the limit: the system or a control group."""


@dataclass(frozen=True)
class _Version:
    """The file names of one version of control groups."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: tuple[str, ...]
    """Lines of `memory.stat` that count memory the kernel can reclaim."""


_VERSIONS: Final = {
    1: _Version(
        limits=("memory.limit_in_bytes",),
        usage="memory.usage_in_bytes",
        reclaimable=("total_inactive_file", "total_active_file"),
    ),
    2: _Version(
        limits=("memory.max", "memory.high"),  # beyond the second, the kernel stalls processes
        usage="memory.current",
        reclaimable=("inactive_file", "active_file", "slab_reclaimable"),
    ),
}


def read_memory() -> Memory:
    """Return the memory of this computer or container. Reads a few small files: well under 1 ms."""
    return memory_within(system_memory(), read_file)


def system_memory() -> Memory:
    """Return the memory of the whole computer, regardless of limits on this process."""
    system = psutil.virtual_memory()
    return Memory(system.total, system.available)


def memory_within(system: Memory, read: ReadFile) -> Memory:
    """Return how much of the system's memory the control groups allow."""
    memory = system
    for version, folder in group_folders(read, "memory"):
        # A group without a limit, or in version 1 with an absurdly high one, allows what its parent does.
        group = _group(_VERSIONS[version], folder, read)
        if group is None or group.total >= system.total:
            continue
        if group.total < memory.total:
            memory = replace(memory, total=group.total, source=f"the control group {folder}")
        memory = replace(memory, available=min(memory.available, group.available))
    return memory


def _group(version: _Version, folder: str, read: ReadFile) -> Memory | None:
    """Return what a control group allows; None if it sets no limit."""
    *limits, usage, stat = (
        read(f"{folder}/{file}") or "" for file in (*version.limits, version.usage, "memory.stat")
    )
    known = [limit for text in limits if (limit := count(text.strip())) is not None]  # `max` means no limit
    used = count(usage.strip())
    if not known or used is None:
        return None
    allowed = min(known)
    counts = dict(line.rsplit(" ", 1) for line in stat.splitlines() if " " in line)
    cache = sum(count(counts.get(name, "")) or 0 for name in version.reclaimable)
    return Memory(allowed, max(allowed - max(used - cache, 0), 0))
