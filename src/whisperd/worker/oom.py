"""Whether the system killed a process because there was no memory left.

Linux' out-of-memory killer sends SIGKILL, as anybody may. But it counts what it kills: for each control
group, such as a container or a service, and for the whole computer. A process that was killed while
its group's count rose was killed by it.
"""

from __future__ import annotations

import re
from typing import Final

from whisperd.hardware import ReadFile, group_folders, read_file

__all__ = ["count_kills", "parse_kills"]

# Of version 2 first without the groups in it, which are other services: old kernels count them as well.
_COUNTING: Final = {1: ("memory.oom_control",), 2: ("memory.events.local", "memory.events")}
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def parse_kills(text: str) -> int | None:
    """The count in `memory.events`, `memory.oom_control` or `/proc/vmstat`; None where it does not stand."""
    found = _KILLS.search(text)
    return int(found[1]) if found else None


def count_kills(read: ReadFile = read_file) -> int | None:
    """How many processes the system has killed for want of memory; None where nobody counts.

    Those of our control group if they can be seen, else those of the computer. Quick: the kernel answers
    from its memory.
    """
    groups = group_folders(read, "memory")
    files = [f"{folder}/{name}" for version, folder in groups for name in _COUNTING[version]]
    counts = (parse_kills(read(file) or "") for file in (*files, "/proc/vmstat"))
    return next((count for count in counts if count is not None), None)
