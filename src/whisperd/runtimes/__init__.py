"""Runtimes: saved presets of model, device, precision and batching, with their whole life.

`RuntimeManager` is the one owner of what is saved and of what is loaded; everybody else asks it and
gets a lease. What may follow what is decided by `life`, a pure state machine.
"""

from __future__ import annotations

from whisperd.runtimes.lease import Lease
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.runtimes.manager import RuntimeManager
from whisperd.runtimes.preset import RuntimeChanges, RuntimePreset
from whisperd.runtimes.runtime import Runtime, RuntimeView
from whisperd.runtimes.surroundings import Surroundings

__all__ = [
    "Lease",
    "LoadedRuntime",
    "Runtime",
    "RuntimeChanges",
    "RuntimeManager",
    "RuntimePreset",
    "RuntimeView",
    "Surroundings",
]
