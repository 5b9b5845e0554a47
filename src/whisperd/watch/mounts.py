"""What is mounted: devices, and which file systems tell of changes, have to be looked at, or never are."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

import psutil

__all__ = [
    "devices_of_the_system",
    "file_system_of",
    "is_of_the_system",
    "is_silent",
    "mounted_devices",
    "parse_devices",
]

_SILENT: Final = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|fuse(\..*)?|fuseblk|9p|afs|ceph|coda|davfs2?|glusterfs|lustre|ncpfs|sshfs|vboxsf|vmhgfs"
    r"|virtiofs|webdav|drvfs|prl_fs|beegfs|orangefs|gfs2|ocfs2|afpfs|macfuse|osxfuse"
)
"""What others change without this computer's kernel being told."""
_DEVICE: Final = re.compile(r"^\d+ \d+ (\d+):(\d+) ", re.MULTILINE)
_OF_THE_SYSTEM: Final = re.compile(
    r"proc|sysfs|devtmpfs|devpts|cgroup2?|binfmt_misc|bpf|configfs|debugfs|efivarfs|fusectl|mqueue|pstore"
    r"|securityfs|selinuxfs|tracefs"
)
"""What the kernel makes up: processes and devices, with links that lead all over the computer."""


def file_system_of(path: str) -> str | None:
    """The kind of file system that a folder is on; None where the system does not say. Blocks."""
    mounts = _mounts()
    real = os.path.realpath(path)
    found = [place for place in mounts if real == place or real.startswith(place.rstrip("/") + "/")]
    return mounts[max(found, key=len)] if found else None


def devices_of_the_system() -> frozenset[int]:
    """The numbers of the devices on which are no files of people. Blocks."""
    devices = set()
    for place, kind in _mounts().items():
        if is_of_the_system(kind):
            with contextlib.suppress(OSError):
                devices.add(os.stat(place).st_dev)
    return frozenset(devices)


def _mounts() -> dict[str, str]:
    """The kinds of file systems, by the places where they are."""
    with contextlib.suppress(OSError):
        return {one.mountpoint: one.fstype for one in psutil.disk_partitions(all=True)}
    return {}


def mounted_devices() -> frozenset[str]:
    """The devices that are mounted somewhere, as `Identity.inode` has them; none where the system does not
    say. Blocks."""
    try:
        return parse_devices(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
    except OSError:
        return frozenset()


def parse_devices(text: str) -> frozenset[str]:
    """The devices in `/proc/self/mountinfo`. Pure."""
    found = _DEVICE.finditer(text)
    return frozenset(f"{os.makedev(int(one[1]), int(one[2])):x}" for one in found)


def is_silent(file_system: str | None) -> bool:
    """Whether changes on such a file system are not told of, at least not those that others make."""
    return file_system is not None and _SILENT.fullmatch(file_system) is not None


def is_of_the_system(file_system: str | None) -> bool:
    """Whether the kernel makes up what is on such a file system."""
    return file_system is not None and _OF_THE_SYSTEM.fullmatch(file_system) is not None
