"""Control groups: Linux' limits for a set of processes, such as a container.

Each group that a process belongs to, and each ancestor of that group, may have a limit; the tightest counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from whisperd.hardware.files import ReadFile

__all__ = ["count", "cpu_quota", "group_folders"]

ROOT: Final = "/sys/fs/cgroup"


def group_folders(read: ReadFile, controller: str) -> Iterator[tuple[int, str]]:
    """Yield the folders of the groups that may limit this process, each with its version, 1 or 2."""
    for version, path in _memberships(read("/proc/self/cgroup") or "", controller):
        root = f"{ROOT}/{controller}" if version == 1 else ROOT
        # Inside a container the path may be the host's, while the container's own group is mounted at the
        # root: folders that do not exist have no files to read, and the root is always checked.
        for folder in (path, *path.parents):
            yield version, f"{root}{folder}".rstrip("/")


def cpu_quota(read: ReadFile) -> float | None:
    """Return how many cores' time all threads of this process may use together; None without a limit."""
    quotas = [_quota(version, folder, read) for version, folder in group_folders(read, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def count(text: str) -> int | None:
    """Parse a number written by the kernel, of at most 64 bits; None for anything else, such as `max`."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None


def _quota(version: int, folder: str, read: ReadFile) -> float | None:
    if version == 2:
        quota, _, period = (read(f"{folder}/cpu.max") or "").strip().partition(" ")
    else:
        quota = (read(f"{folder}/cpu.cfs_quota_us") or "").strip()
        period = (read(f"{folder}/cpu.cfs_period_us") or "").strip()
    microseconds, per = count(quota), count(period)  # `max` and -1 are not numbers: no limit
    return microseconds / per if microseconds and per else None


def _memberships(text: str, controller: str) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield the groups of this process that have the controller, from lines of `number:controllers:path`."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/"):
            continue
        if controller in controllers.split(","):
            yield 1, PurePosixPath(path)
        elif number == "0" and not controllers:
            yield 2, PurePosixPath(path)
