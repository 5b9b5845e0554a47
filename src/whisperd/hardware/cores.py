"""How many cores there are, and how many of them this process may use."""

from __future__ import annotations

import os

from whisperd.hardware.cgroups import cpu_quota
from whisperd.hardware.facts import Cores
from whisperd.hardware.files import read_file
from whisperd.hardware.probes import Probes, affinity

__all__ = ["cores", "usable_cores"]


def cores(probes: Probes) -> Cores:
    """The cores, and the limits of the scheduler and of control groups."""
    return _cores(probes.physical_count(), probes.cpu_count, probes.affinity, cpu_quota(probes.read))


def usable_cores() -> int:
    """How many threads of this process can compute at once. A few small files are read: well under 1 ms."""
    return _cores(None, os.cpu_count() or 1, affinity(), cpu_quota(read_file)).usable


def _cores(physical: int | None, logical: int, allowed: int | None, quota: float | None) -> Cores:
    return Cores(
        physical=physical,
        logical=logical,
        affinity=None if allowed is None or allowed >= logical else allowed,
        quota=quota,
    )
