"""What is mounted: which devices, and which file systems tell of changes or have to be looked at."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

__all__ = ["file_system_of", "is_silent", "mounted_devices", "parse_devices", "parse_mounts"]

_SILENT: Final = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|fuse(\..*)?|fuseblk|9p|afs|ceph|coda|davfs2?|glusterfs|lustre|ncpfs|sshfs|vboxsf|vmhgfs"
    r"|virtiofs|webdav|drvfs|prl_fs|beegfs|orangefs|gfs2|ocfs2"
)
"""What others change without this computer's kernel being told."""
_DEVICE: Final = re.compile(r"^\d+ \d+ (\d+):(\d+) ", re.MULTILINE)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def file_system_of(path: str) -> str | None:
    """The kind of file system that a folder is on; None where the system does not say. Blocks."""
    try:
        mounts = parse_mounts(Path("/proc/self/mounts").read_text("utf-8", "surrogateescape"))
    except OSError:
        return None
    real = os.path.realpath(path)
    found = [place for place in mounts if real == place or real.startswith(place.rstrip("/") + "/")]
    return mounts[max(found, key=len)] if found else None


def parse_mounts(text: str) -> dict[str, str]:
    """The kinds of file systems by the places where they are, from `/proc/self/mounts`. Pure."""
    mounts = {}
    for line in text.split("\n"):  # a name may hold what else divides lines
        fields = line.split(" ")
        if len(fields) >= 3:
            mounts[_OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[1])] = fields[2]
    return mounts


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
