"""What a backend is, and how the daemon finds it. This file is the whole plugin interface.

A backend is a distribution with an entry point in the group `whisperd`. The module it names
implements `whisperd_backend` and announces the variants that it offers. Its engine module is
imported in a worker process only, with the variant's native bundle on the path; what the worker
asks of it stands in `whisperd.worker.protocol`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from itertools import chain

import pluggy

__all__ = ["Backend", "Variant", "backends", "find_variant", "hookimpl", "hookspec", "variants"]

log = logging.getLogger(__name__)

PROJECT = "whisperd"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class Variant:
    """One build of a backend for one kind of hardware."""

    name: str
    """`{backend}-{hardware}`, such as `ctranslate2-cpu`; also the name of its native bundle."""
    lock: str | None
    """The text of its lock file: what to install, by hash (format: `whisperd.natives.lock`). None
    for a backend that needs no native library, such as one that asks another server."""
    device: str
    """`cpu` or `cuda`."""
    priority: int
    """Where nothing was measured yet, the usable variant with the highest priority is taken."""
    compute_types: Sequence[str]
    """Precisions it can compute in, the best choice for this hardware first."""


@dataclass(frozen=True)
class Backend:
    """A plugin that can run Whisper."""

    name: str
    """Such as `ctranslate2`."""
    engine: str
    """`module:function` that a worker calls to load a model: `whisperd.worker.protocol.LoadEngine`."""
    variants: Sequence[Variant]
    need_bytes: Callable[..., int] | None = None
    """Estimates the memory that a model takes, as `whisperd.models.memory.need_bytes` does for CTranslate2:
    `(parameters, compute_type, *, batch_size, replicas, device)` in bytes. None: that very estimate."""


class Hooks:
    """The hooks that a plugin implements."""

    @hookspec
    def whisperd_backend(self) -> Backend | None:
        """Announce a backend."""


@functools.cache
def backends() -> tuple[Backend, ...]:
    """Every backend that is installed, by name. A plugin that fails is passed over, and logged."""
    found = (_announced(entry_point) for entry_point in entry_points(group=PROJECT))
    return tuple(sorted(chain.from_iterable(found), key=lambda backend: backend.name))


def variants() -> list[tuple[Backend, Variant]]:
    """Every variant of every backend, the highest priority first."""
    pairs = [(backend, variant) for backend in backends() for variant in backend.variants]
    return sorted(pairs, key=lambda pair: -pair[1].priority)


def find_variant(name: str) -> tuple[Backend, Variant] | None:
    """The variant of that name."""
    return next((pair for pair in variants() if pair[1].name == name), None)


def _announced(entry_point: EntryPoint) -> Sequence[Backend]:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    try:
        manager.register(entry_point.load())
        manager.check_pending()  # a hook that does not exist is a spelling mistake
        announced: Sequence[Backend] = manager.hook.whisperd_backend()
    except Exception:
        log.exception("the plugin %s (%s) cannot be used", entry_point.name, entry_point.value)
        return ()
    return announced
