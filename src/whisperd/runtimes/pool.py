"""What is loaded: one owner, leases, and unloading when idle."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from whisperd.plugins import Variant
from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, RuntimeStatus, RuntimeStatusName
from whisperd.runtimes.loaded import LoadedRuntime, default_replicas
from whisperd.runtimes.prepare import Prepared
from whisperd.settings import RuntimeSettings
from whisperd.tasks import open_task_group
from whisperd.worker.process import Patience
from whisperd.worker.protocol import LoadParams

__all__ = ["Lease", "Prepare", "RuntimePool", "RuntimeState"]

log = logging.getLogger(__name__)

Prepare = Callable[[str, OnProgress], Awaitable[Prepared]]
"""Gets everything that a worker needs for a model, with progress. Raises `WhisperdError`."""


KEPT_STATES = 20
"""Models of which it is still told how they ended, when nobody uses them any more."""


@dataclass(eq=False)
class _Hosting:
    """One time that a model is loaded, from being prepared to the end of its worker."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancelling it gives up or unloads."""
    settled: anyio.Event = field(default_factory=anyio.Event)
    """Set when it is loaded, or has ended before."""
    ended: anyio.Event = field(default_factory=anyio.Event)
    error: WhisperdError | None = None
    """Why it has ended, if not because it was to."""


@dataclass(eq=False)
class RuntimeState:
    """One model: how far it is with being loaded, and how many hold a lease on it."""

    model: str
    status: RuntimeStatusName = "unloaded"
    progress: float | None = None
    detail: str | None = None
    error: WhisperdError | None = None
    leases: int = 0
    loaded: LoadedRuntime | None = None
    """Set while it can be used."""
    prepared: Prepared | None = None
    hosting: _Hosting | None = None
    """Set while it is being prepared, is loaded, or is being unloaded."""
    leases_changed: anyio.Event = field(default_factory=anyio.Event)

    def wake(self) -> None:
        """Have its host look again whether it is wanted."""
        self.leases_changed.set()
        self.leases_changed = anyio.Event()


class Lease:
    """What a job holds on a model so that it is not unloaded."""

    def __init__(self, obtain: Callable[[], Awaitable[LoadedRuntime]]) -> None:
        self._obtain = obtain

    async def runtime(self) -> LoadedRuntime:
        """The loaded model. Raises `WhisperdError` if it cannot be prepared or loaded."""
        return await self._obtain()


class RuntimePool:
    """Loads models on demand, once however many ask, and unloads them when nobody does."""

    def __init__(
        self,
        tasks: TaskGroup,
        prepare: Prepare,
        settings: Callable[[], RuntimeSettings],
        default_model: Callable[[], str],
        publish: Callable[[Event], None],
    ) -> None:
        self._tasks = tasks
        self._prepare = prepare
        self._settings = settings
        self._default_model = default_model
        self._publish = publish
        self._states: dict[str, RuntimeState] = {}
        self._held_count = 0
        self.held_count_changed: Callable[[int], None] = lambda _count: None
        """Called when a model begins to be loaded and when it was unloaded, with how many are held."""

    def states(self) -> list[RuntimeState]:
        """Every model that is wanted or loaded, and the last ones that were."""
        return list(self._states.values())

    def is_default(self, state: RuntimeState) -> bool:
        """Whether this is the model that stays loaded."""
        return state.model == self._default_model()

    def check_unused(self, model: str) -> None:
        """Raise `model.in_use` if a worker has the model's files open."""
        state = self._states.get(model)
        if state is not None and state.hosting is not None:
            raise WhisperdError(
                "model.in_use",
                f"The model {model} is {state.status}.",
                "Stop the daemon, or wait until the model is unloaded.",
            )

    def settings_changed(self) -> None:
        """How long a model is kept, or which one stays, may be another one now."""
        for state in self._states.values():
            state.wake()

    @contextmanager
    def lease(self, model: str) -> Iterator[Lease]:
        """Hold on to a model: once loaded it is not unloaded before the block ends.

        It is loaded when the lease is asked for it. A load on which nobody holds a lease any more is
        given up, and so is its download.
        """
        state = self._states.pop(model, None) or RuntimeState(model)
        self._states[model] = state  # the last one to be forgotten
        state.leases += 1
        state.wake()
        try:
            yield Lease(functools.partial(self._obtain, state))
        finally:
            state.leases -= 1
            state.wake()
            if state.leases == 0 and state.hosting is not None and not state.hosting.settled.is_set():
                state.hosting.scope.cancel()
            self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        unused = [one.model for one in self._states.values() if one.leases == 0 and one.hosting is None]
        for model in unused[:-KEPT_STATES]:
            del self._states[model]

    async def _obtain(self, state: RuntimeState) -> LoadedRuntime:
        while True:
            hosting = state.hosting or self._begin(state)
            await hosting.settled.wait()
            loaded = state.loaded
            if loaded and not (loaded.unloaded.is_set() or hosting.scope.cancel_called):
                return loaded
            await hosting.ended.wait()
            if hosting.error is not None:
                raise hosting.error.copy()
            # It was being unloaded, or was given up by others: once more, for us.

    def _begin(self, state: RuntimeState) -> _Hosting:
        state.hosting = hosting = _Hosting()
        state.error = None
        self._tasks.start_soon(self._host, state, hosting)
        return hosting

    async def _host(self, state: RuntimeState, hosting: _Hosting) -> None:
        """Prepare and load a model, keep it until it is idle for long enough, end it."""
        try:
            with hosting.scope:
                await self._load_and_keep(state, hosting)
        except WhisperdError as error:
            log.error("runtime %s: %s (%s)", state.model, error.message, error.code)
            hosting.error = error.copy()
        except Exception:
            log.exception("runtime %s failed unexpectedly", state.model)
            hosting.error = _unexpected(state.model)
        finally:
            was_loaded = hosting.settled.is_set()
            state.loaded = state.hosting = None
            state.error = hosting.error
            self._set_status(state, "failed" if state.error else "unloaded" if was_loaded else "cancelled")
            hosting.settled.set()
            hosting.ended.set()
            self._forget_the_oldest()

    async def _load_and_keep(self, state: RuntimeState, hosting: _Hosting) -> None:
        self._set_status(state, "downloading")
        state.prepared = await self._prepare(state.model, functools.partial(self._report, state))
        self._set_status(state, "loading")
        loaded = self._new_loaded(state.model, state.prepared)
        async with open_task_group() as tasks:
            tasks.start_soon(loaded.run)
            await loaded.ready.wait()
            state.loaded = loaded
            self._set_status(state, "loaded")
            hosting.settled.set()
            await self._until_idle(state)
            # From here on a new lease waits, and then loads the model again.
            state.loaded = None
            log.info("runtime %s is idle and is unloaded", state.model)
            tasks.cancel_scope.cancel()

    def _new_loaded(self, model: str, prepared: Prepared) -> LoadedRuntime:
        settings = self._settings()
        params = LoadParams(
            model_path=str(prepared.model_path),
            model_name=model,
            bundle_name=prepared.variant.name if prepared.bundle_path else None,
            device=prepared.variant.device,
            compute_type=_compute_type(settings.compute_type, prepared.variant),
            cpu_threads=settings.cpu_threads,
            replicas=settings.replicas or default_replicas(),
        )
        patience = Patience(
            load_s=settings.load_timeout_s,
            batch_s=settings.batch_timeout_s,
            batch_per_audio_s=settings.batch_timeout_per_audio_s,
        )
        return LoadedRuntime(
            model, prepared.backend, prepared.bundle_path, params, settings.batch_size, patience
        )

    async def _until_idle(self, state: RuntimeState) -> None:
        """Wait until nobody has held a lease for as long as the model is to be kept."""
        while True:
            changed = state.leases_changed
            keep_alive_s = self._settings().keep_alive_s
            if state.leases > 0 or keep_alive_s < 0 or self.is_default(state):
                await changed.wait()
                continue
            with anyio.move_on_after(keep_alive_s):
                await changed.wait()
            if not changed.is_set():  # a lease taken in the very moment of the timeout counts
                return

    def _report(self, state: RuntimeState, progress: Progress) -> None:
        """What is downloaded for a runtime is progress of that runtime."""
        state.progress = round(100 * progress.done / progress.total, 1) if progress.total else None
        state.detail = f"{progress.detail} {progress.name}"
        self._publish_status(state)

    def _set_status(self, state: RuntimeState, status: RuntimeStatusName) -> None:
        state.status, state.progress, state.detail = status, None, None
        self._publish_status(state)
        held = sum(one.status in ("loading", "loaded") for one in self._states.values())
        if held != self._held_count:
            self._held_count = held
            self.held_count_changed(held)

    def _publish_status(self, state: RuntimeState) -> None:
        self._publish(
            RuntimeStatus(
                id=state.model,
                name=state.model,
                status=state.status,
                progress=state.progress,
                detail=state.detail,
                error=state.error.to_wire() if state.error else None,
            )
        )


def _compute_type(wanted: str, variant: Variant) -> str:
    if wanted == "auto":
        return variant.compute_types[0]
    if wanted in variant.compute_types:
        return wanted
    raise WhisperdError(
        "compute_type.unknown",
        f"{variant.name} does not compute in {wanted}.",
        f"Set runtime.compute_type in the settings to auto or one of: {', '.join(variant.compute_types)}.",
    )


def _unexpected(model: str) -> WhisperdError:
    return WhisperdError(
        "internal.error",
        f"{model} cannot be loaded because of a mistake in whisperd itself.",
        "Please report it with the lines that `whisperctl daemon logs` shows.",
    )
