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
    allowed, logical = probes.affinity, probes.cpu_count
    return Cores(
        physical=probes.physical_count(),
        logical=logical,
        affinity=None if allowed is None or allowed >= logical else allowed,
        quota=cpu_quota(probes.read),
    )


def usable_cores() -> int:
    """How many threads of this process can compute at once. A few small files are read: well under 1 ms."""
    logical = os.cpu_count() or 1
    return Cores(physical=None, logical=logical, affinity=affinity(), quota=cpu_quota(read_file)).usable
