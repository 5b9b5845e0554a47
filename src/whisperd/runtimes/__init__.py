"""Runtimes: saved presets of model, device, precision and batching, with their whole life.

`RuntimeManager` is the one owner of what is saved and of what is loaded; everybody else asks it and
gets a lease. What may follow what is decided by `life`, a pure state machine.

A `host` keeps a runtime while it is there: the `provisioner` chooses among what its `preset` asks for, what
`computer` can do and `fallback` does not rule out, and has `prepare` get it, `room` finds the memory
(`memory`), and `loaded` keeps its worker. What people set of it goes through `editing` into `presets`;
`advice` says beforehand what will not fit, `history` what became of it. Profiles, each a runtime and options
of jobs under a name, are kept by `profile_manager` in `profiles`. All that the room asks of the rest of the
daemon is in `surroundings`, but for what was measured (`provisioner.Measured`).

`life`, `preset`, `memory` and `file_models` are pure.
"""

from __future__ import annotations

from whisperd.runtimes.computer import Computer, JudgedVariant
from whisperd.runtimes.lease import Lease
from whisperd.runtimes.loaded import LoadedRuntime, died_error, not_started_error, open_prepared
from whisperd.runtimes.manager import RuntimeManager
from whisperd.runtimes.prepare import Prepared, Tuning, load_params
from whisperd.runtimes.preset import USUAL_BATCH_SIZE, RuntimeChanges, RuntimePreset
from whisperd.runtimes.runtime import Runtime, RuntimeView
from whisperd.runtimes.surroundings import Surroundings

__all__ = [
    "USUAL_BATCH_SIZE",
    "Computer",
    "JudgedVariant",
    "Lease",
    "LoadedRuntime",
    "Prepared",
    "Runtime",
    "RuntimeChanges",
    "RuntimeManager",
    "RuntimePreset",
    "RuntimeView",
    "Surroundings",
    "Tuning",
    "died_error",
    "load_params",
    "not_started_error",
    "open_prepared",
]
