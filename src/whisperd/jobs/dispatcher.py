"""One per loaded runtime: feeds its worker with the batches that the scheduler composes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice

import anyio
from anyio.abc import TaskGroup

from whisperd.jobs.batching import NO_PAST, Parcel, Past
from whisperd.jobs.job import unexpected_error
from whisperd.jobs.scheduler import Batch, Priority, WindowScheduler
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import LoadedRuntime, died_error
from whisperd.tasks import RepeatedEvent, open_task_group
from whisperd.worker.process import WorkerDied
from whisperd.worker.protocol import BatchParams, WindowResult
from whisperd.worker.rules import common_context_frames

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)


class _Waiter:
    """A job that waits for a parcel's results."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.results: list[WindowResult] = []
        self.error: WhisperdError | None = None

    def answer(self, results: Sequence[WindowResult] = (), error: WhisperdError | None = None) -> None:
        """Give it what it waits for."""
        self.results, self.error = list(results), error
        self.done.set()


class Dispatcher:
    """Jobs hand in parcels and get results; in between they share batches with all other jobs."""

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
        """Have these classes wait, and no others."""
        self._scheduler.held = priorities
        self._changed.set()

    def add_job(self, job: str, priority: Priority, past: Past = NO_PAST) -> None:
        """Make a place for a job among the others: while it waits to be decoded, and anew when it is."""
        self._scheduler.add_job(job, priority, past)

    def complete(self, job: str) -> None:
        """All windows of a job were handed in; one may come again that is not sure of its language."""
        self._scheduler.complete(job)

    def remove_job(self, job: str) -> None:
        """The job is over; its waiting windows are forgotten, and those that are being computed given up."""
        self._scheduler.remove_job(job)
        self._changed.set()

    async def transcribe(self, parcel: Parcel) -> list[WindowResult]:
        """Have windows of a job that was added computed; one result for each.

        Raises `WhisperdError`: what the engine answered, `worker.died` if the worker did not survive
        them twice, or why the runtime is not there any more. Who is cancelled gives up what it has asked for.
        """
        if self._failure is not None or self.runtime.unloaded.is_set():
            raise self._why_over()
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
        """How many windows wait for a batch."""
        return self._scheduler.waiting

    def waiting_s(self, job: str) -> float:
        """How much audio of a job that was added waits for a batch."""
        return self._scheduler.waiting_s(job)

    def has_enough(self, priority: Priority) -> bool:
        """Whether so much of a class waits that no more has to be decoded for now."""
        return self._scheduler.has_enough(priority)

    async def wait_for_batch(self) -> None:
        """Wait until something that waited may wait no more."""
        await self._begun.wait()

    @property
    def has_room(self) -> bool:
        """Whether a window that came now would be computed at once."""
        return self._scheduler.has_room

    async def run(self) -> None:
        """Work until the runtime is unloaded; whoever still waits then learns why."""
        try:
            async with open_task_group() as tasks:
                tasks.start_soon(self._feed, tasks)
                await self.runtime.unloaded.wait()
                tasks.cancel_scope.cancel()
        except Exception:
            log.exception("the dispatcher of runtime %s failed unexpectedly", self.runtime.name)
            self._failure = unexpected_error()
        for waiter in self._waiters.values():
            waiter.answer(error=self._why_over())

    def _why_over(self) -> WhisperdError:
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
        except Exception:
            log.exception("a batch of runtime %s failed unexpectedly", self.runtime.name)
            self._scheduler.done(batch)
            for parcel in batch.wanted:
                self._answer(parcel, error=unexpected_error())
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
        if waiter := self._waiters.get(parcel.key):  # else nobody waits for it any more
            waiter.answer(results, error)
