"""How much memory there is for this process, and how much of it is free.

In a container that is what its control groups allow, and not what the computer has.
Page cache counts as free, for the kernel gives it up when memory is asked for.
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
    """In bytes."""

    total: int
    available: int
    """What can be taken without swapping."""
    source: str = field(default="the system", compare=False)
    """Whose limit it is: the system's, or a control group's."""


@dataclass(frozen=True)
class _Version:
    """What the files of one version of control groups are called."""

    limit: str
    usage: str
    reclaimable: tuple[str, ...]
    """Lines of `memory.stat` that count what the kernel can take back."""


_VERSIONS: Final = {
    1: _Version(
        limit="memory.limit_in_bytes",
        usage="memory.usage_in_bytes",
        reclaimable=("total_inactive_file", "total_active_file"),
    ),
    2: _Version(
        limit="memory.max",
        usage="memory.current",
        reclaimable=("inactive_file", "active_file", "slab_reclaimable"),
    ),
}


def read_memory() -> Memory:
    """The memory of this computer, or of the container. A few small files are read: well under 1 ms."""
    return memory_within(system_memory(), read_file)


def system_memory() -> Memory:
    """The memory of the computer, whatever of it this process may take."""
    system = psutil.virtual_memory()
    return Memory(system.total, system.available)


def memory_within(system: Memory, read: ReadFile) -> Memory:
    """What control groups leave of the system's memory."""
    memory = system
    for version, folder in group_folders(read, "memory"):
        # A group without a limit, and in version 1 one with an absurd limit, allows what its parent does.
        group = _group(_VERSIONS[version], folder, read)
        if group is None or group.total >= system.total:
            continue
        if group.total < memory.total:
            memory = replace(memory, total=group.total, source=f"the control group {folder}")
        memory = replace(memory, available=min(memory.available, group.available))
    return memory


def _group(version: _Version, folder: str, read: ReadFile) -> Memory | None:
    """What a control group allows; None if it sets no limit."""
    limit, usage, stat = (
        read(f"{folder}/{file}") or "" for file in (version.limit, version.usage, "memory.stat")
    )
    allowed, used = count(limit.strip()), count(usage.strip())
    if allowed is None or used is None:  # `max` is none
        return None
    counts = dict(line.rsplit(" ", 1) for line in stat.splitlines() if " " in line)
    cache = sum(count(counts.get(name, "")) or 0 for name in version.reclaimable)
    return Memory(allowed, max(allowed - max(used - cache, 0), 0))
