"""Whether the system killed a process because there was no memory left.

Linux' out-of-memory killer sends SIGKILL, as anybody may. But it counts what it kills: for each control
group, such as a container or a service, and for the whole computer. A process that was killed while
its group's count rose was killed by it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["control_group_files", "count_kills", "parse_kills"]

_PROC: Final = Path("/proc")
_CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def parse_kills(text: str) -> int | None:
    """The count in `memory.events`, `memory.oom_control` or `/proc/vmstat`; None where it does not stand."""
    found = _KILLS.search(text)
    return int(found[1]) if found else None


def control_group_files(membership: str) -> list[str]:
    """Where the count of a process's group stands, below the folder of the groups; the likeliest first.

    `membership` is the text of `/proc/PID/cgroup`: lines of `number:controllers:path`.
    """
    files: list[str] = []
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            files += [f"memory{path}/memory.oom_control", "memory/memory.oom_control"]
        elif number == "0" and not controllers:
            # Without the groups in it, which are other services: kernels before 5.2 count them as well.
            names = ("memory.events.local", "memory.events")
            files += [f"{folder}/{name}".lstrip("/") for folder in (path, "") for name in names]
    return files


def count_kills(proc: Path = _PROC, control_groups: Path = _CONTROL_GROUPS) -> int | None:
    """How many processes the system has killed for want of memory; None where nobody counts.

    Those of our control group if they can be seen, else those of the computer. Quick: the kernel answers
    from its memory.
    """
    files = [control_groups / file for file in control_group_files(_read(proc / "self" / "cgroup"))]
    counts = (parse_kills(_read(file)) for file in (*files, proc / "vmstat"))
    return next((count for count in counts if count is not None), None)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
