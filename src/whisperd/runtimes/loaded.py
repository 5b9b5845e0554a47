"""A loaded model: its worker process, which is restarted when it dies."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
import psutil

from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.prepare import Prepared
from whisperd.tasks import RepeatedEvent
from whisperd.worker.process import Patience, Unwanted, Worker, WorkerDied, open_worker
from whisperd.worker.protocol import BatchParams, EngineInfo, LoadParams, WindowResult

__all__ = ["LoadedRuntime", "died_error", "open_prepared"]

log = logging.getLogger(__name__)

MAX_DEATHS_IN_A_ROW = 3
"""A worker that dies this many times without computing a batch in between is not restarted. Deaths during the
retry of a batch do not count: the contents of the batch are to blame."""


class LoadedRuntime:
    """A loaded model that can compute batches. `run` keeps its worker alive."""

    def __init__(
        self,
        name: str,
        prepared: Prepared,
        params: LoadParams,
        batch_size: int,
        patience: Patience | None = None,
    ) -> None:
        self.name = name
        self.replicas = params.replicas
        self.batch_size = batch_size
        self.info: EngineInfo
        """The loaded engine; set once `ready` is."""
        self.ready = anyio.Event()
        """Set when the model is loaded for the first time."""
        self.unloaded = anyio.Event()
        """Set when no worker will run again; `why_unloaded` returns the reason."""
        self.on_death: Callable[[WhisperdError | None], None] = lambda _death: None
        """Called with the error when the worker died and restarts, then with None once it is ready."""
        self._prepared = prepared
        self.params = params
        self._patience = patience
        self._worker: Worker | None = None
        self._retrying: Worker | None = None
        """The worker that retries a batch, or died while doing so."""
        self._worker_changed = RepeatedEvent()
        self._deaths_in_a_row = 0
        self._failure: WhisperdError | None = None

    async def transcribe(
        self, batch: BatchParams, unwanted: Unwanted | None = None, *, is_retry: bool = False
    ) -> list[WindowResult]:
        """Compute a batch, on a new worker if the last one died. See `Worker.transcribe`.

        A retry must run alone: if the worker dies, the batch is to blame.
        Raises `WorkerDied` if the worker dies meanwhile, `WhisperdError` if no worker can be started.
        """
        worker = await self._living_worker()
        self._retrying = worker if is_retry else None
        try:
            results = await worker.transcribe(batch, unwanted)
        except WhisperdError:
            self._retrying = None
            raise
        self._retrying = None
        self._deaths_in_a_row = 0
        return results

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        return self._worker.pid if self._worker else None

    @property
    def memory_bytes(self) -> int | None:
        """Resident memory of the worker."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self.pid else None
        except (psutil.Error, OSError):  # it has just ended, or there are too many open files
            return None

    def why_unloaded(self) -> WhisperdError:
        """Return the error for a job that still needs the model."""
        return self._failure.copy() if self._failure else unloaded_error(self.name)

    async def run(self) -> None:
        """Keep a worker running until cancelled. Raises `WhisperdError` if none can run."""
        try:
            while True:
                await self._run_worker()
        except WhisperdError as error:
            self._failure = error.copy()
            raise
        finally:
            self.unloaded.set()
            self._set_worker(None)

    async def _run_worker(self) -> None:
        try:
            async with open_prepared(self._prepared, self.params, self._patience) as worker:
                self.info = worker.info
                for warning in worker.info.warnings:
                    log.warning("runtime %s: %s", self.name, warning)
                self._set_worker(worker)
                if self.ready.is_set():
                    self.on_death(None)
                self.ready.set()
                await worker.died.wait()
                death = await worker.cause_of_death()
            is_excused = self._retrying is worker
        except WorkerDied as error:  # while loading the model
            death, is_excused = error, False
        except OSError as error:
            raise not_started_error(self.name, error) from error
        self._set_worker(None)
        self._deaths_in_a_row += not is_excused
        log.error("the worker of runtime %s died (%s)\n%s", self.name, death.how, death.last_words)
        # Loading it again would fail again, and the system might kill other programs next.
        lacks_memory = death.fault is not None and death.fault.code.startswith("memory.")
        if self._deaths_in_a_row >= MAX_DEATHS_IN_A_ROW or (lacks_memory and not self.ready.is_set()):
            raise died_error(self.name, death)
        if self.ready.is_set():
            self.on_death(died_error(self.name, death))

    async def _living_worker(self) -> Worker:
        while True:
            if self.unloaded.is_set():
                raise self.why_unloaded()
            if self._worker is not None and not self._worker.died.is_set():
                return self._worker
            await self._worker_changed.wait()

    def _set_worker(self, worker: Worker | None) -> None:
        self._worker = worker
        self._worker_changed.set()


def open_prepared(
    prepared: Prepared, params: LoadParams, patience: Patience | None = None
) -> AbstractAsyncContextManager[Worker]:
    """Start a worker with its prepared bundle and model. See `open_worker`."""
    environment = prepared.variant.environment
    return open_worker(prepared.bundle_path, prepared.backend.engine, params, patience, environment)


def died_error(name: str, death: WorkerDied) -> WhisperdError:
    """Return the error for a worker that died."""
    fault = death.fault or WhisperdError(
        "worker.died",
        f"The engine of {name} exited unexpectedly ({death.how}).",
        "Retry the job; if it fails again, see the engine's output in `whisperctl daemon logs`.",
    )
    data = {**fault.data, "how": death.how, "stderr": death.last_words}
    return WhisperdError(fault.code, fault.message, fault.fix, data)


def unloaded_error(name: str) -> WhisperdError:
    """Return the error for a model that was unloaded before a job was done."""
    return WhisperdError(
        "runtime.unloaded",
        f"The runtime {name} was unloaded.",
        "Submit the job again; the runtime is loaded on demand.",
    )


def not_started_error(name: str, error: OSError) -> WhisperdError:
    """Return the error for a process that the system refuses to start."""
    return WhisperdError(
        "worker.not_started",
        f"The worker process of {name} cannot be started: {error.strerror or error}.",
        "Close programs that you do not need, or raise the limits on processes and open files, then try "
        "again.",
    )
