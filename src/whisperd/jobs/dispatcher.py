"""Feeds the worker of a loaded runtime with batches composed by the scheduler: one dispatcher per runtime."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice

import anyio
from anyio.abc import TaskGroup

from whisperd.jobs.batching import NO_PAST, Parcel, Past
from whisperd.jobs.scheduler import Batch, Priority, WindowScheduler
from whisperd.rpc.errors import WhisperdError, unexpected_error
from whisperd.runtimes import LoadedRuntime, died_error
from whisperd.tasks import RepeatedEvent, open_task_group
from whisperd.worker.process import WorkerDied
from whisperd.worker.protocol import BatchParams, WindowResult
from whisperd.worker.rules import common_context_frames

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)


class _Waiter:
    """A job waiting for the results of a parcel."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.results: list[WindowResult] = []
        self.error: WhisperdError | None = None

    def answer(self, results: Sequence[WindowResult] = (), error: WhisperdError | None = None) -> None:
        """Deliver the results or the error."""
        self.results, self.error = list(results), error
        self.done.set()


class Dispatcher:
    """Computes parcels for jobs, in batches shared by all jobs of the runtime."""

    def __init__(self, runtime: LoadedRuntime) -> None:
        self.runtime = runtime
        margin_s = runtime.params.context_margin_s
        context_of = partial(common_context_frames, margin_s=margin_s)
        self._scheduler = WindowScheduler(
            batch_size=runtime.batch_size,
            replicas=runtime.replicas,
            overtakes=runtime.info.overtakes,
            context_of=context_of if runtime.info.equal_contexts else None,
        )
        self._waiters: dict[tuple[str, tuple[int, ...]], _Waiter] = {}
        self._changed = RepeatedEvent()
        self._begun = RepeatedEvent()
        self._failure: WhisperdError | None = None

    def hold(self, priorities: frozenset[Priority]) -> None:
        """Hold these classes, and release all others."""
        self._scheduler.held = priorities
        self._changed.set()

    def add_job(self, job: str, priority: Priority, past: Past = NO_PAST) -> None:
        """Add a job: first while it waits to be decoded, and again when decoding begins."""
        self._scheduler.add_job(job, priority, past)

    def complete(self, job: str) -> None:
        """Note that all windows of a job were submitted; one of uncertain language may be submitted again."""
        self._scheduler.complete(job)

    def remove_job(self, job: str) -> None:
        """Drop a job that ended: forget its waiting windows, abandon those being computed."""
        self._scheduler.remove_job(job)
        self._changed.set()

    async def transcribe(self, parcel: Parcel) -> list[WindowResult]:
        """Compute windows of a known job; returns one result for each.

        Raises `WhisperdError`: the engine's own error, `worker.died` if the worker died on them twice, or the
        reason why the runtime is no longer loaded. Cancelling the call abandons the windows.
        """
        if self._failure is not None or self.runtime.unloaded.is_set():
            raise self._closed_error()
        waiter = _Waiter()
        self._waiters[parcel.key] = waiter
        try:
            self._scheduler.add(parcel, time.monotonic())
            self._changed.set()
            await waiter.done.wait()
        finally:
            del self._waiters[parcel.key]
            if not waiter.done.is_set():
                self._scheduler.withdraw(parcel)
                self._changed.set()
        if waiter.error is not None:
            raise waiter.error
        return waiter.results

    @property
    def waiting(self) -> int:
        """Number of windows waiting for a batch."""
        return self._scheduler.waiting

    def waiting_s(self, job: str) -> float:
        """Return how many seconds of audio of a known job wait for a batch."""
        return self._scheduler.waiting_s(job)

    def has_enough(self, priority: Priority) -> bool:
        """Whether enough audio of a class waits that nothing more need be decoded for now."""
        return self._scheduler.has_enough(priority)

    async def wait_for_batch(self) -> None:
        """Wait until waiting windows may have entered a batch."""
        await self._begun.wait()

    @property
    def has_room(self) -> bool:
        """Whether a window submitted now would start at once."""
        return self._scheduler.has_room

    async def run(self) -> None:
        """Dispatch batches until the runtime is unloaded; jobs that still wait then get the reason."""
        try:
            async with open_task_group() as tasks:
                tasks.start_soon(self._feed, tasks)
                await self.runtime.unloaded.wait()
                tasks.cancel_scope.cancel()
        except Exception as error:
            log.exception("the dispatcher of runtime %s failed unexpectedly", self.runtime.name)
            self._failure = unexpected_error("The job failed", error)
        for waiter in self._waiters.values():
            waiter.answer(error=self._closed_error())

    def _closed_error(self) -> WhisperdError:
        return self._failure.copy() if self._failure else self.runtime.why_unloaded()

    async def _feed(self, tasks: TaskGroup) -> None:
        while True:
            changed = self._changed.next
            while (batch := self._scheduler.next_batch(time.monotonic())) is not None:
                tasks.start_soon(self._compute, batch)
            self._begun.set()
            await changed.wait()

    async def _compute(self, batch: Batch) -> None:
        try:
            params = BatchParams(windows=batch.windows, options=batch.options)
            results = await self.runtime.transcribe(params, batch.unwanted, is_retry=batch.is_retry)
        except WorkerDied as death:
            for parcel in self._scheduler.worker_died(batch):
                self._answer(parcel, error=died_error(self.runtime.name, death))
        except WhisperdError as error:
            for parcel in self._scheduler.refused(batch):
                self._answer(parcel, error=error.copy())
        except Exception as error:
            log.exception("a batch of runtime %s failed unexpectedly", self.runtime.name)
            self._scheduler.done(batch)
            for parcel in batch.wanted:
                self._answer(parcel, error=unexpected_error("The job failed", error))
        else:
            self._scheduler.done(batch)
            remaining = iter(results)
            for group, parcel in enumerate(batch.parcels):
                own = list(islice(remaining, len(parcel.windows)))
                if group not in batch.unwanted.groups:
                    self._answer(parcel, results=own)
        finally:
            self._changed.set()

    def _answer(
        self, parcel: Parcel, *, results: Sequence[WindowResult] = (), error: WhisperdError | None = None
    ) -> None:
        if waiter := self._waiters.get(parcel.key):  # else its job no longer waits
            waiter.answer(results, error)
