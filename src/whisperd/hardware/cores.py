"""Count the cores of this computer, and those that this process may use."""

from __future__ import annotations

import os

from whisperd.hardware.cgroups import cpu_quota
from whisperd.hardware.facts import Cores
from whisperd.hardware.files import read_file
from whisperd.hardware.probes import Probes, affinity

__all__ = ["cores", "usable_cores"]


def cores(probes: Probes) -> Cores:
    """Return the cores, with the limits of the scheduler and of control groups."""
    allowed, logical = probes.affinity, probes.cpu_count
    return Cores(
        physical=probes.physical_count(),
        logical=logical,
        affinity=None if allowed is None or allowed >= logical else allowed,
        quota=cpu_quota(probes.read),
    )


def usable_cores() -> int:
    """Return how many threads of this process can run in parallel. Reads a few small files, in under 1 ms."""
    logical = os.cpu_count() or 1
    return Cores(physical=None, logical=logical, affinity=affinity(), quota=cpu_quota(read_file)).usable
