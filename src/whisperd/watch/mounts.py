"""Mounted devices and their file systems: which to watch, which to poll, and which never to scan."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

import psutil

__all__ = [
    "file_system_of",
    "is_virtual",
    "mounted_devices",
    "needs_polling",
    "parse_devices",
    "virtual_devices",
]

_POLLED: Final = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|fuse(\..*)?|fuseblk|9p|afs|ceph|coda|davfs2?|glusterfs|lustre|ncpfs|sshfs|vboxsf|vmhgfs"
    r"|virtiofs|webdav|drvfs|prl_fs|beegfs|orangefs|gfs2|ocfs2|afpfs|macfuse|osxfuse"
)
"""File systems that other computers can change without this kernel noticing."""
_DEVICE: Final = re.compile(r"^\d+ \d+ (\d+):(\d+) ", re.MULTILINE)
_VIRTUAL: Final = re.compile(
    r"proc|sysfs|devtmpfs|devpts|cgroup2?|binfmt_misc|bpf|configfs|debugfs|efivarfs|fusectl|mqueue|pstore"
    r"|securityfs|selinuxfs|tracefs"
)
"""Virtual file systems of the kernel: processes and devices, with links that lead all over the computer."""


def file_system_of(path: str) -> str | None:
    """Return the type of the file system that a folder is on; None if unknown. Blocks."""
    mounts = _mounts()
    real = os.path.realpath(path)
    found = [place for place in mounts if real == place or real.startswith(place.rstrip("/") + "/")]
    return mounts[max(found, key=len)] if found else None


def virtual_devices() -> frozenset[int]:
    """Return the device numbers of the kernel's virtual file systems, which hold no user files. Blocks."""
    devices = set()
    for place, kind in _mounts().items():
        if is_virtual(kind):
            with contextlib.suppress(OSError):
                devices.add(os.stat(place).st_dev)
    return frozenset(devices)


def _mounts() -> dict[str, str]:
    """Return the file system types by mount point."""
    with contextlib.suppress(OSError):
        return {one.mountpoint: one.fstype for one in psutil.disk_partitions(all=True)}
    return {}


def mounted_devices() -> frozenset[str]:
    """Return the mounted devices in the form of `Identity.inode`; none if the system does not list them.
    Blocks."""
    try:
        return parse_devices(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
    except OSError:
        return frozenset()


def parse_devices(text: str) -> frozenset[str]:
    """Parse the devices from `/proc/self/mountinfo`. Pure."""
    found = _DEVICE.finditer(text)
    return frozenset(f"{os.makedev(int(one[1]), int(one[2])):x}" for one in found)


def needs_polling(file_system: str | None) -> bool:
    """Whether a file system does not report changes, at least not those made by other computers."""
    return file_system is not None and _POLLED.fullmatch(file_system) is not None


def is_virtual(file_system: str | None) -> bool:
    """Whether a file system is a virtual one of the kernel."""
    return file_system is not None and _VIRTUAL.fullmatch(file_system) is not None
