"""A runtime as the daemon holds it in memory, and as it is shown to clients."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from whisperd.clock import now_rfc3339
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import RuntimeStatus, RuntimeStatusName
from whisperd.runtimes.fallback import fallback_note
from whisperd.runtimes.history import KEPT_STATUS_CHANGES, StatusChange
from whisperd.runtimes.life import Life
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.runtimes.prepare import Prepared
from whisperd.runtimes.preset import USUAL_BATCH_SIZE, RuntimePreset
from whisperd.tasks import RepeatedEvent

__all__ = ["Hosting", "LoadedAs", "Runtime", "RuntimeView"]


class LoadedAs(msgspec.Struct, frozen=True, kw_only=True):
    """The values in use, including those that the preset left open."""

    device: str
    device_index: tuple[int, ...]
    compute_type: str
    workers: int
    cpu_threads: int
    batch_size: int
    library: str


class RuntimeView(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime as shown to clients. `keep_alive` in seconds, `memory` in bytes, `progress` in percent."""

    id: str
    name: str
    model: str
    backend: str
    device: str
    device_index: tuple[int, ...]
    compute_type: str
    cpu_threads: int
    workers: int
    batched: bool
    batch_size: int
    keep_alive: float
    enabled: bool
    default: bool
    protected: bool
    created: str
    changed: str
    version: int
    saved: bool
    status: RuntimeStatusName
    progress: float | None
    detail: str | None
    error: dict[str, Any] | None
    variant: str | None
    note: str | None
    loaded: LoadedAs | None
    memory: int | None
    pid: int | None
    leases: int
    waiting: int
    last_used: str | None


@dataclass(eq=False)
class Hosting:
    """One period during which a runtime is hosted, from its preparation to the end of its worker."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelling it tells the host to end."""
    prepared: anyio.Event = field(default_factory=anyio.Event)
    """Set when everything that the worker needs is prepared, or when the host has ended. Replaced by a new
    event when a variant could not be loaded and the next best one is prepared instead."""
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set when it is loaded, or when the host has ended."""
    ended: anyio.Event = field(default_factory=anyio.Event)
    error: WhisperdError | None = None
    """The error for callers that waited for it; None if they shall retry."""


@dataclass(eq=False)
class Runtime:
    """A preset and its current state. Only its manager and host change it."""

    preset: RuntimePreset
    is_saved: bool = True
    """False for one that was created for a job that named its model."""
    progress: float | None = None
    detail: str | None = None
    error: WhisperdError | None = None
    """Why its last host failed or, while it is restarting, why its worker died."""
    hosting: Hosting | None = None
    prepared: Prepared | None = None
    loaded: LoadedRuntime | None = None
    """Set from when the model is loaded until the host has ended."""
    needs: Mapping[int | None, int] = field(default_factory=dict)
    """The estimated peak memory of its worker in bytes, by GPU; None is the computer's own memory."""
    last_used: str | None = None
    unused_since_s: float = 0.0
    """When its last lease ended, by the monotonic clock."""
    awaits_first_use: bool = False
    """Whether it was loaded on request and has not been used since."""
    history: deque[StatusChange] = field(default_factory=lambda: deque(maxlen=KEPT_STATUS_CHANGES))
    changed: RepeatedEvent = field(default_factory=RepeatedEvent)

    @property
    def id(self) -> str:
        """The permanent id."""
        return self.preset.id

    @property
    def name(self) -> str:
        """The name, which may change."""
        return self.preset.name

    @property
    def batch_size(self) -> int:
        """Windows computed together: the measured best if the preset has the usual size, else its own."""
        if not self.preset.batched:
            return 1
        tuning = self.prepared.tuning if self.prepared else None
        is_usual = self.preset.batch_size == USUAL_BATCH_SIZE
        return tuning.batch_size if tuning and is_usual else self.preset.batch_size

    def wake(self) -> None:
        """Have its host check again whether it shall stay loaded."""
        self.changed.set()

    def remember(self, status: RuntimeStatusName) -> StatusChange:
        """Add its status to its history, and return the entry."""
        # `error` lasts until the next attempt, but belongs only to the status that it caused: `failed`, or
        # `loading` while a worker that died is restarted.
        error = self.error.to_wire() if self.error and status in ("failed", "loading") else None
        change = StatusChange(time=now_rfc3339(), status=status, detail=self.detail, error=error)
        self.history.append(change)
        return change

    def event(self, life: Life) -> RuntimeStatus:
        """Return the event that reports its state to subscribers."""
        return RuntimeStatus(
            id=self.id,
            name=self.name,
            status=life.reported_status,
            progress=self.progress,
            detail=self.detail,
            error=self.error.to_wire() if self.error else None,
        )

    def view(self, life: Life, *, waiting: int = 0) -> RuntimeView:
        """Return its view for clients; `waiting` windows wait for it."""
        loaded = None if life.is_restarting else self.loaded
        return RuntimeView(
            **{name: getattr(self.preset, name) for name in _SHOWN_AS_SAVED},
            enabled=life.is_enabled,
            default=life.is_default,
            protected=life.is_protected,
            saved=self.is_saved,
            status=life.reported_status,
            progress=self.progress,
            detail=self.detail or ("unloading" if life.ending and life.status == "loaded" else None),
            error=self.error.to_wire() if self.error else None,
            variant=self.prepared.variant.name if self.prepared else None,
            note=fallback_note(self.prepared.variant, self.prepared.passed_over) if self.prepared else None,
            loaded=_loaded_as(loaded) if loaded else None,
            memory=loaded.memory_bytes if loaded else None,
            pid=loaded.pid if loaded else None,
            leases=life.leases,
            waiting=waiting,
            last_used=self.last_used,
        )


_SHOWN_AS_SAVED = tuple(
    name
    for name in RuntimePreset.__struct_fields__
    if name in RuntimeView.__struct_fields__ and name not in ("enabled", "protected")
)


def _loaded_as(loaded: LoadedRuntime) -> LoadedAs:
    params = loaded.params
    return LoadedAs(
        device=params.device,
        device_index=params.device_index if params.device != "cpu" else (),
        compute_type=loaded.info.compute_type,
        workers=params.replicas,
        cpu_threads=params.cpu_threads,
        batch_size=loaded.batch_size,
        library=loaded.info.library,
    )
