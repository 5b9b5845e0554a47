"""Control groups: Linux' limits for a set of processes, such as a container.

Each group in which a process is, and each group around that one, may have a limit; the tightest counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from whisperd.hardware.files import ReadFile

__all__ = ["count", "cpu_quota", "group_folders"]

ROOT: Final = "/sys/fs/cgroup"


def group_folders(read: ReadFile, controller: str) -> Iterator[tuple[int, str]]:
    """The folders of the groups that may limit this process: version 1 or 2, and the path."""
    for version, path in _memberships(read("/proc/self/cgroup") or "", controller):
        root = f"{ROOT}/{controller}" if version == 1 else ROOT
        # Inside a container the path may be the one outside, and what is mounted the container's own
        # group: folders that are not there have no files to read, and the root is always looked at.
        for folder in (path, *path.parents):
            yield version, f"{root}{folder}".rstrip("/")


def cpu_quota(read: ReadFile) -> float | None:
    """How many cores' time this process may take, in all its threads together; None if nothing limits it."""
    quotas = [_quota(version, folder, read) for version, folder in group_folders(read, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def count(text: str) -> int | None:
    """A number that the kernel wrote, of 64 bits at the most; None for anything else, such as `max`."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None


def _quota(version: int, folder: str, read: ReadFile) -> float | None:
    if version == 2:
        quota, _, period = (read(f"{folder}/cpu.max") or "").strip().partition(" ")
    else:
        quota = (read(f"{folder}/cpu.cfs_quota_us") or "").strip()
        period = (read(f"{folder}/cpu.cfs_period_us") or "").strip()
    microseconds, per = count(quota), count(period)  # `max` and -1 are none
    return microseconds / per if microseconds and per else None


def _memberships(text: str, controller: str) -> Iterator[tuple[int, PurePosixPath]]:
    """The groups of this process that know the controller; the text is lines of `number:controllers:path`."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/"):
            continue
        if controller in controllers.split(","):
            yield 1, PurePosixPath(path)
        elif number == "0" and not controllers:
            yield 2, PurePosixPath(path)
