"""Runtimes: saved presets of model, device, precision and batching, and their lifecycle.

`RuntimeManager` alone owns the saved presets and the loaded models; all other code asks it for a lease.
`life`, a pure state machine, decides which status may follow which.

While a runtime is downloading, loading or loaded, it has a `host`. The `provisioner` chooses a variant that
the `preset` allows, the `computer` supports and `fallback` does not rule out, and has `prepare` install it;
`admission` finds the memory (`memory`); `loaded` keeps the worker running. Edits by users pass through
`editing` into `presets`; `advice` warns of models that will not fit; `history` records status changes.
Profiles, each a runtime and job options under a name, are managed by `profile_manager` and stored by
`profiles`. `daemon_interface` holds everything that this package needs from the rest of the daemon, except
measurements (`provisioner.Measured`).

`life`, `preset`, `memory` and `file_models` are pure.
"""

from __future__ import annotations

from whisperd.runtimes.computer import Computer, JudgedVariant
from whisperd.runtimes.daemon_interface import DaemonInterface
from whisperd.runtimes.lease import Lease
from whisperd.runtimes.loaded import LoadedRuntime, died_error, not_started_error, open_prepared
from whisperd.runtimes.manager import RuntimeManager
from whisperd.runtimes.prepare import Prepared, Tuning, load_params
from whisperd.runtimes.preset import USUAL_BATCH_SIZE, RuntimeChanges, RuntimePreset
from whisperd.runtimes.runtime import Runtime, RuntimeView

__all__ = [
    "USUAL_BATCH_SIZE",
    "Computer",
    "DaemonInterface",
    "JudgedVariant",
    "Lease",
    "LoadedRuntime",
    "Prepared",
    "Runtime",
    "RuntimeChanges",
    "RuntimeManager",
    "RuntimePreset",
    "RuntimeView",
    "Tuning",
    "died_error",
    "load_params",
    "not_started_error",
    "open_prepared",
]
