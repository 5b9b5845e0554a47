"""The host of a runtime: it prepares what the runtime needs, starts its worker, keeps it running and ends it.

A host is a task of the manager that exists exactly while the runtime is downloading, loading or loaded. The
manager decides what is allowed; the host reports to it what has happened.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import anyio

from whisperd.progress import Progress
from whisperd.rpc.errors import WhisperdError, unexpected_error
from whisperd.runtimes.fallback import FailedVariant, fallback_note, first_failure, is_fault_of_variant
from whisperd.runtimes.life import Event, Life
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.runtimes.prepare import Prepared, load_params
from whisperd.runtimes.runtime import Hosting, Runtime
from whisperd.tasks import open_task_group
from whisperd.worker.process import Patience
from whisperd.worker.protocol import LoadParams

if TYPE_CHECKING:
    from whisperd.runtimes.manager import RuntimeManager

__all__ = ["KEPT_UNTIL_USED_S", "Host"]

log = logging.getLogger(__name__)

KEPT_UNTIL_USED_S: Final = 900.0
"""The least time that a runtime loaded on request stays loaded while it waits for its first use."""


class Host:
    """Hosts a runtime once, from preparing it to the end of its worker."""

    def __init__(self, manager: RuntimeManager, runtime: Runtime, hosting: Hosting) -> None:
        self._manager = manager
        self._daemon = manager.daemon
        self._runtime = runtime
        self._hosting = hosting

    async def run(self) -> None:
        """Prepare the runtime, load it, keep it until the host is told to end, and end it. Raises nothing."""
        runtime, error = self._runtime, None
        try:
            with self._hosting.scope:
                await self._host()
        except WhisperdError as failure:
            log.error("runtime %s: %s (%s)", runtime.name, failure.message, failure.code)
            error = failure.copy()
        except Exception as failure:
            log.exception("runtime %s failed unexpectedly", runtime.name)
            error = unexpected_error(f"The runtime {runtime.name} cannot be loaded", failure)
        finally:
            self._manager.hosting_ended(runtime, self._hosting, error)

    async def _host(self) -> None:
        """Prepare the runtime, load it, and keep it until the scope is cancelled. Raises `WhisperdError`.

        If a variant cannot be loaded, the next best one is used, provided that the preset allows it.
        """
        runtime, hosting = self._runtime, self._hosting
        failed: list[FailedVariant] = []
        while True:
            runtime.prepared = None
            runtime.prepared = prepared = await self._manager.provisioner.prepare(
                runtime.preset, self._report, failed, is_to_be_loaded=self._life.goal == "loaded"
            )
            runtime.progress, runtime.detail = None, fallback_note(prepared.variant, prepared.passed_over)
            hosting.prepared.set()
            if self._life.goal == "prepared":
                return
            self._apply("prepared")
            try:
                await self._keep_loaded(prepared, failed)
            except WhisperdError as error:
                if runtime.loaded is not None:
                    raise
                failed.append(FailedVariant(prepared.variant, error))
                if not prepared.has_others or not is_fault_of_variant(error, prepared.variant):
                    raise first_failure(failed) from error
                self._fall_back(failed[-1])

    def _fall_back(self, failed: FailedVariant) -> None:
        runtime = self._runtime
        name, error = failed.variant.name, failed.error
        log.warning("runtime %s: %s failed: %s (%s)", runtime.name, name, error.message, error.code)
        runtime.needs = {}
        self._hosting.prepared = anyio.Event()  # the next variant is not prepared yet
        runtime.detail = f"{name} failed: {error.message}"
        self._apply("fallback")

    async def _keep_loaded(self, prepared: Prepared, failed: Sequence[FailedVariant]) -> None:
        """Load a prepared variant and keep it until told to end. `failed` are those tried before it."""
        runtime = self._runtime
        usual = load_params(runtime.preset, prepared)
        await self._daemon.vacated()
        params = await self._manager.admission.admit(self._manager, runtime, prepared, usual)
        if params != usual:
            log.warning(
                "runtime %s: memory suffices for %d instead of %d workers",
                runtime.name,
                params.replicas,
                usual.replicas,
            )
        loaded = self._new_loaded(prepared, params)
        async with open_task_group() as tasks:
            tasks.start_soon(loaded.run)
            await loaded.ready.wait()
            runtime.detail = None
            runtime.loaded, runtime.unused_since_s = loaded, self._daemon.clock()
            self._apply("ready")  # before any `await`: from now on its worker may die
            await self._manager.provisioner.failures.note(runtime.preset.model, failed)
            self._hosting.settled.set()
            self._manager.wake_all()
            await self._until_told_to_end()

    def _worker_died(self, death: WhisperdError | None) -> None:
        """Note that the worker died and is being restarted or, with None, that the restarted one is ready."""
        self._runtime.error = death
        self._apply("restarted" if death is None else "died")

    def _new_loaded(self, prepared: Prepared, params: LoadParams) -> LoadedRuntime:
        settings = self._daemon.settings()
        patience = Patience(
            settings.load_timeout_s, settings.batch_timeout_s, settings.batch_timeout_per_audio_s
        )
        loaded = LoadedRuntime(self._runtime.name, prepared, params, self._runtime.batch_size, patience)
        loaded.on_death = self._worker_died
        return loaded

    async def _until_told_to_end(self) -> None:
        """Wait to be cancelled, and request that once the runtime has been idle for its keep-alive time."""
        while True:
            changed = self._runtime.changed.next
            with anyio.move_on_after(self._kept_for_s()):
                await changed.wait()
            if not changed.is_set():  # a lease taken at the moment of the timeout counts
                log.info("runtime %s is idle and will be unloaded", self._runtime.name)
                self._apply("idle")
                await anyio.sleep_forever()

    def _kept_for_s(self) -> float:
        """Return the seconds until the runtime is unloaded if nothing changes."""
        runtime = self._runtime
        keep_alive_s = runtime.preset.keep_alive
        if not self._life.is_idle or keep_alive_s < 0:
            return math.inf
        if runtime.awaits_first_use:
            keep_alive_s = max(keep_alive_s, KEPT_UNTIL_USED_S)
        return max(0.0, runtime.unused_since_s + keep_alive_s - self._daemon.clock())

    def _report(self, progress: Progress) -> None:
        """Publish the progress of a download as progress of the runtime."""
        runtime = self._runtime
        runtime.progress = round(100 * progress.done / progress.total, 1) if progress.total else None
        runtime.detail = f"{progress.detail} {progress.name}"
        self._manager.publish_state(runtime)

    @property
    def _life(self) -> Life:
        return self._manager.life(self._runtime)

    def _apply(self, event: Event) -> None:
        self._manager.apply(self._runtime, event)
