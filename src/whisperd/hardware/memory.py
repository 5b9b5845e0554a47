"""How much memory there is for this process, and how much of it is free.

In a container that is what its control groups allow, and not what the computer has. On Linux each
group in which the process is, and each group around that one, may have a limit; the tightest counts.
Page cache counts as free, for the kernel gives it up when memory is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import psutil

__all__ = ["Memory", "group_memory", "memory_within", "read_memory"]

ReadFile = Callable[[str], str | None]
"""The text of a file, None if it cannot be read."""


@dataclass(frozen=True)
class Memory:
    """In bytes."""

    total: int
    available: int
    """What can be taken without swapping."""


@dataclass(frozen=True)
class _Version:
    """What the files of one version of control groups are called."""

    root: str
    limit: str
    usage: str
    reclaimable: tuple[str, ...]
    """Lines of `memory.stat` that count what the kernel can take back."""


_VERSION_1: Final = _Version(
    root="/sys/fs/cgroup/memory",
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    reclaimable=("total_inactive_file", "total_active_file"),
)
_VERSION_2: Final = _Version(
    root="/sys/fs/cgroup",
    limit="memory.max",
    usage="memory.current",
    reclaimable=("inactive_file", "active_file", "slab_reclaimable"),
)


def read_memory() -> Memory:
    """The memory of this computer, or of the container. A few small files are read: well under 1 ms."""
    system = psutil.virtual_memory()
    return memory_within(Memory(system.total, system.available), _read)


def memory_within(system: Memory, read: ReadFile) -> Memory:
    """What control groups leave of the system's memory."""
    total, available = system.total, system.available
    for version, path in _groups(read("/proc/self/cgroup") or ""):
        # Inside a container the path may be the one outside, and what is mounted the container's own
        # group: the folders that are not there are passed over, and the root is always looked at.
        for folder in (path, *path.parents):
            # A group without a limit, and in version 1 one with an absurd limit, allows what its parent does.
            group = _group(version, f"{version.root}{folder}".rstrip("/"), read)
            if group is not None and group.total < system.total:
                total, available = min(total, group.total), min(available, group.available)
    return Memory(total, available)


def group_memory(limit: str, usage: str, stat: str, reclaimable: tuple[str, ...]) -> Memory | None:
    """What a control group allows, from the text of its files; None if it sets no limit."""
    limit, usage = limit.strip(), usage.strip()
    if not (limit.isdecimal() and usage.isdecimal()):  # `max` is none
        return None
    counts = dict(line.rsplit(" ", 1) for line in stat.splitlines() if " " in line)
    cache = sum(int(counts[name]) for name in reclaimable if counts.get(name, "").isdecimal())
    used = max(int(usage) - cache, 0)
    return Memory(int(limit), max(int(limit) - used, 0))


def _groups(membership: str) -> Iterator[tuple[_Version, PurePosixPath]]:
    """The groups of this process that count memory; the text is lines of `number:controllers:path`."""
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/"):
            continue
        if "memory" in controllers.split(","):
            yield _VERSION_1, PurePosixPath(path)
        elif number == "0" and not controllers:
            yield _VERSION_2, PurePosixPath(path)


def _group(version: _Version, folder: str, read: ReadFile) -> Memory | None:
    limit, usage = read(f"{folder}/{version.limit}"), read(f"{folder}/{version.usage}")
    if limit is None or usage is None:
        return None
    return group_memory(limit, usage, read(f"{folder}/memory.stat") or "", version.reclaimable)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return None
