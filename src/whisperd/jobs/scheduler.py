"""Decides which windows are computed next. Pure: no I/O, and the clock is passed in.

The window is the unit of work. Windows of all jobs on a runtime share its batches, so a short clip never
waits for a long file to end. The rules:

* A higher class goes first (`interactive`, `normal`, `bulk`), but a class with work that was passed over for
  `STARVATION_S` gets the next batch.
* A class need not wait for batches of lower ones to end: if the engine supports overtaking, one of its
  batches is computed alongside them even though no replica is free.
* Within a class, `batching` decides what is computed together.
* If the worker dies, the windows it was computing run once more, each parcel alone and with no other batch
  running, so that only the window at fault can fail. So do parcels that the engine refused together.
"""

from __future__ import annotations

from collections import ChainMap, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal, get_args

import msgspec

from whisperd.jobs.batching import NO_PAST, Capacity, JobClass, Parcel, Past, QueuedJob
from whisperd.worker.process import Unwanted
from whisperd.worker.protocol import DecodeOptions, EngineWindow

__all__ = ["Batch", "Priority", "WindowScheduler"]

Priority = Literal["interactive", "normal", "bulk"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

STARVATION_S = 20.0
"""Longest time for which a class with work is passed over."""


@dataclass(frozen=True)
class Batch:
    """Parcels sent to the worker together."""

    id: int
    parcels: tuple[Parcel, ...]
    rank: int
    """The rank of its class."""
    unwanted: Unwanted = field(default_factory=Unwanted)
    """Parcels that are no longer wanted; may grow while the batch is computed."""

    @property
    def windows(self) -> tuple[EngineWindow, ...]:
        """All windows, in the order of the parcels; `group` is the number of the parcel."""
        return tuple(
            msgspec.structs.replace(window, group=group)
            for group, parcel in enumerate(self.parcels)
            for window in parcel.windows
        )

    @property
    def wanted(self) -> list[Parcel]:
        """The parcels whose results are still wanted."""
        return [one for group, one in enumerate(self.parcels) if group not in self.unwanted.groups]

    @property
    def options(self) -> DecodeOptions:
        """The options shared by all its windows."""
        return self.parcels[0].options

    @property
    def is_retry(self) -> bool:
        """Whether this is the second attempt of a parcel, which is alone in it."""
        return self.parcels[0].is_retry


class WindowScheduler:
    """Holds the waiting windows, and decides which go next."""

    def __init__(
        self,
        *,
        batch_size: int,
        replicas: int,
        overtakes: bool = False,
        context_of: Callable[[float], int] | None = None,
    ) -> None:
        """`context_of` returns the context of a window of this length, if batches need equal ones."""
        self._replicas = replicas
        self._overtakes = overtakes
        capacity = Capacity(batch_size, replicas, context_of)
        self._classes: dict[Priority, JobClass] = {
            priority: JobClass(rank, capacity) for rank, priority in enumerate(PRIORITIES)
        }
        self._jobs: Mapping[str, QueuedJob] = ChainMap(*(one.jobs for one in self._classes.values()))
        self._retries: deque[Parcel] = deque()
        self._running: dict[int, Batch] = {}
        self._ids = count()
        self.held: frozenset[Priority] = frozenset()
        """Classes that must wait, even if there is work."""

    def add_job(self, job: str, priority: Priority, past: Past = NO_PAST) -> None:
        """Add a job; one that has no windows yet may be added again."""
        self._classes[priority].add_job(job, past)

    def add(self, parcel: Parcel, now_s: float) -> None:
        """Queue windows of a known job. A parcel larger than a batch becomes a batch of its own."""
        self._jobs[parcel.job].put(parcel, now_s)

    def complete(self, job: str) -> None:
        """Note that all windows of a known job were added."""
        self._jobs[job].is_complete = True

    def remove_job(self, job: str) -> None:
        """Remove a job and its waiting windows; those being computed become unwanted."""
        for one in self._classes.values():
            one.remove_job(job)
        self._forget(lambda parcel: parcel.job == job)

    def withdraw(self, parcel: Parcel) -> None:
        """Remove a parcel that is no longer wanted, like `remove_job`, though its job continues."""
        if (job := self._jobs.get(parcel.job)) and parcel in job.waiting:
            job.drop(parcel)
        self._forget(lambda one: one.key == parcel.key)

    def next_batch(self, now_s: float) -> Batch | None:
        """Return the next batch; None if there is no work or no free replica."""
        if self._retries:
            if self._running:
                return None
            retry = self._retries.popleft()
            return self._start([retry], self._jobs[retry.job].of)
        if self._is_retrying():
            return None
        is_full = len(self._running) >= self._replicas
        next_class = self._overtaking_class() if is_full else self._next_class(now_s)
        if next_class is None:
            return None
        next_class.passed_over_since_s = now_s
        return self._start(next_class.compose(), next_class)

    def done(self, batch: Batch) -> None:
        """Note that a batch was computed."""
        del self._running[batch.id]
        for parcel in batch.parcels:
            if job := self._jobs.get(parcel.job):
                job.computed += len(parcel.windows)

    def worker_died(self, batch: Batch) -> list[Parcel]:
        """Handle the death of the worker: the wanted parcels of this batch are tried once more, each alone.

        Returns the parcels that already had their second attempt: these fail.
        """
        del self._running[batch.id]
        # one death may end several batches, but counts once per job
        known = {parcel.job for parcel in self._retries}
        for job in ({parcel.job for parcel in batch.parcels} & self._jobs.keys()) - known:
            self._jobs[job].interrupt()
        self._retries += [
            replace(parcel, is_retry=True)
            for parcel in batch.wanted
            if parcel.job in self._jobs and not parcel.is_retry
        ]
        return [parcel for parcel in batch.wanted if parcel.is_retry]

    def refused(self, batch: Batch) -> list[Parcel]:
        """Handle an error of the engine: several parcels are tried again, each alone.

        Returns the parcels that fail: one that was alone in its batch.
        """
        if len(batch.parcels) > 1:
            return self.worker_died(batch)
        self.done(batch)
        return batch.wanted

    @property
    def waiting(self) -> int:
        """Number of windows waiting for a batch."""
        retries = sum(len(parcel.windows) for parcel in self._retries)
        return retries + sum(one.waiting_windows for one in self._classes.values())

    def waiting_s(self, job: str) -> float:
        """Return how many seconds of audio of a known job wait for a batch."""
        return sum(parcel.duration_s for parcel in self._jobs[job].waiting)

    def has_enough(self, priority: Priority) -> bool:
        """Whether enough of a class waits that no more is needed now."""
        return self._classes[priority].has_enough

    @property
    def has_room(self) -> bool:
        """Whether a window added now would start at once."""
        return (
            len(self._running) < self._replicas
            and not self._is_retrying()
            and not (self._retries or self._due())
        )

    def _forget(self, are_meant: Callable[[Parcel], bool]) -> None:
        """Drop the retries of certain parcels, and mark those being computed as unwanted."""
        self._retries = deque(parcel for parcel in self._retries if not are_meant(parcel))
        for batch in self._running.values():
            if groups := [group for group, parcel in enumerate(batch.parcels) if are_meant(parcel)]:
                batch.unwanted.add(groups)

    def _start(self, parcels: Sequence[Parcel], of: JobClass) -> Batch:
        batch = Batch(next(self._ids), tuple(parcels), of.rank)
        self._running[batch.id] = batch
        return batch

    def _due(self) -> list[JobClass]:
        """Return the classes that have work and are not held, highest first."""
        return [one for priority, one in self._classes.items() if one.ready and priority not in self.held]

    def _is_retrying(self) -> bool:
        return any(batch.is_retry for batch in self._running.values())

    def _next_class(self, now_s: float) -> JobClass | None:
        """Return the class that was passed over for too long, else the highest one with work."""
        due = self._due()
        starved = [one for one in due if now_s - one.passed_over_since_s > STARVATION_S]
        if starved:
            return min(starved, key=lambda one: one.passed_over_since_s)
        return due[0] if due else None

    def _overtaking_class(self) -> JobClass | None:
        """Return the highest class with work, if it is higher than all classes being computed."""
        if not self._overtakes or len(self._running) > self._replicas:
            return None
        highest = min(batch.rank for batch in self._running.values())
        return next((one for one in self._due() if one.rank < highest), None)
