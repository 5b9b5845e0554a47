"""What was found of this computer, kept on the disk for the daemon that comes next.

To look takes a process and a tenth of a second, and the first job waits for it. So a daemon that starts goes
on with what the one before it has found, as if it had found that itself. It does not where something that
was looked at may have changed with the start: another boot, environment, Python or version of whisperd.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from whisperd._version import __version__
from whisperd.hardware.facts import Hardware
from whisperd.hardware.files import read_file
from whisperd.hardware.gpus import Gpus

__all__ = ["KeptHardware", "Recalled", "surroundings"]

log = logging.getLogger(__name__)

_OF_ONE_START: Final = ("INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_", "MEMORY_PRESSURE_", "NOTIFY_SOCKET",
                        "SYSTEMD_EXEC_PID", "WATCHDOG_")  # fmt: skip
"""Variables with which a service manager tells each process something else, by how they begin."""


class Recalled(NamedTuple):
    """What was found earlier."""

    hardware: Hardware
    """Without GPUs: what is free of their memory changes, so they are asked anew."""
    age_s: float
    """How long ago it was found."""


class _Found(msgspec.Struct, frozen=True):
    surroundings: str
    found_s: float
    hardware: Hardware


def surroundings(env: Mapping[str, str] = os.environ, boot: str | None = None) -> str | None:
    """What stays the same from one start to the next, as a hash; None where it is not known.

    `boot` tells one boot of the computer from another, by default as Linux does.
    """
    boot = boot or read_file("/proc/sys/kernel/random/boot_id")
    if boot is None:
        return None
    lasting = sorted(item for item in env.items() if not item[0].startswith(_OF_ONE_START))
    parts = (boot.strip(), __version__, sys.version, sys.prefix, lasting)
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()


class KeptHardware:
    """A file with what was found last. Raises nothing: what cannot be read or written is looked at anew."""

    def __init__(
        self,
        file: Path,
        *,
        now_s: Callable[[], float] = time.time,
        surroundings: Callable[[], str | None] = surroundings,
    ) -> None:
        self._file = file
        self._now_s = now_s
        self._surroundings = surroundings

    def keep(self, hardware: Hardware) -> None:
        """Keep what was just found, if all of it was."""
        key = self._surroundings()
        if hardware.unknown or key is None:
            return
        found = _Found(key, self._now_s(), msgspec.structs.replace(hardware, gpus=Gpus()))
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            new.touch(mode=0o600)
            new.write_bytes(msgspec.json.encode(found))
            new.replace(self._file)
        except OSError as error:
            log.warning("what was found of this computer cannot be kept: %s", error)

    def recall(self) -> Recalled | None:
        """What was found earlier; None where it may be something else now."""
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=_Found)
        except (OSError, ValueError):  # none yet, or that of another version
            return None
        age_s = self._now_s() - found.found_s
        if age_s < 0 or found.surroundings != self._surroundings():
            return None
        return Recalled(found.hardware, age_s)
