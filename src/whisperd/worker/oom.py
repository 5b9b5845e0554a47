"""Detects whether the system killed a process because it ran out of memory.

Linux's out-of-memory killer sends SIGKILL, as any other process may. But the kernel counts its kills for each
control group, such as a container or a service, and for the whole computer. If a process was killed and the
count of its group rose meanwhile, the out-of-memory killer did it.
"""

from __future__ import annotations

import re
from typing import Final

from whisperd.hardware import ReadFile, group_folders, read_file

__all__ = ["count_kills", "parse_kills"]

# For version 2, first the file that excludes child groups, which are other services; old kernels lack it.
_COUNTING: Final = {1: ("memory.oom_control",), 2: ("memory.events.local", "memory.events")}
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def parse_kills(text: str) -> int | None:
    """Return the count in `memory.events`, `memory.oom_control` or `/proc/vmstat`; None if it has none."""
    found = _KILLS.search(text)
    return int(found[1]) if found else None


def count_kills(read: ReadFile = read_file) -> int | None:
    """Return how many processes the out-of-memory killer has killed; None where they are not counted.

    Counts those of our control group if visible, else those of the computer. Fast: the files are not on disk.
    """
    groups = group_folders(read, "memory")
    files = [f"{folder}/{name}" for version, folder in groups for name in _COUNTING[version]]
    counts = (parse_kills(read(file) or "") for file in (*files, "/proc/vmstat"))
    return next((count for count in counts if count is not None), None)
