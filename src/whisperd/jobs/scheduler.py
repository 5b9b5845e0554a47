"""Which windows are computed next. Pure: no I/O, and the clock is passed in.

The window is the unit of work. Windows of all jobs on a runtime share its batches, so a short clip
never waits for a long file to end. The rules:

* A higher class goes first (`interactive`, `normal`, `bulk`), but once a class with work was passed
  over for `STARVATION_S`, the next batch is its own.
* A class need not wait for batches of lower ones to end: where the engine lets it overtake, one batch of
  it is computed beside them, though no replica is free.
* Within a class, `batching` says what is computed together.
* Windows that were being computed when the worker died run again once, each one alone and with
  nothing beside it, so that only the window at fault can fail. So do windows of several parcels that
  the engine refused together.
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
"""Longest time that a class with work is passed over."""


@dataclass(frozen=True)
class Batch:
    """Parcels that go to the worker together."""

    id: int
    parcels: tuple[Parcel, ...]
    rank: int
    """Of its class."""
    unwanted: Unwanted = field(default_factory=Unwanted)
    """What nobody wants of it any more; it grows while it is computed."""

    @property
    def windows(self) -> tuple[EngineWindow, ...]:
        """All windows, in the order of the parcels; `group` tells the parcels apart."""
        return tuple(
            msgspec.structs.replace(window, group=group)
            for group, parcel in enumerate(self.parcels)
            for window in parcel.windows
        )

    @property
    def wanted(self) -> list[Parcel]:
        """The parcels whose results somebody waits for."""
        return [one for group, one in enumerate(self.parcels) if group not in self.unwanted.groups]

    @property
    def options(self) -> DecodeOptions:
        """The options that all its windows share."""
        return self.parcels[0].options

    @property
    def is_retry(self) -> bool:
        """Whether it is the second chance of a parcel, which is alone in it."""
        return self.parcels[0].is_retry


class WindowScheduler:
    """Holds the windows that wait, and says which go next."""

    def __init__(
        self,
        *,
        batch_size: int,
        replicas: int,
        overtakes: bool = False,
        context_of: Callable[[float], int] | None = None,
    ) -> None:
        """`context_of` says what context a window of so many seconds has, if a batch holds equal ones."""
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
        """Classes that wait, whatever there is to do."""

    def add_job(self, job: str, priority: Priority, past: Past = NO_PAST) -> None:
        """Make a place for a job; one that has no windows yet may be added anew."""
        self._classes[priority].add_job(job, past)

    def add(self, parcel: Parcel, now_s: float) -> None:
        """Windows of a known job wait from now on. More than a batch holds make a batch by themselves."""
        self._jobs[parcel.job].put(parcel, now_s)

    def complete(self, job: str) -> None:
        """All windows of a known job were added."""
        self._jobs[job].is_complete = True

    def remove_job(self, job: str) -> None:
        """Forget a job and its waiting windows; what is being computed of it is unwanted."""
        for one in self._classes.values():
            one.remove_job(job)
        self._forget(lambda parcel: parcel.job == job)

    def withdraw(self, parcel: Parcel) -> None:
        """As `remove_job`, of a parcel that nobody waits for any more, though its job goes on."""
        if (job := self._jobs.get(parcel.job)) and parcel in job.waiting:
            job.drop(parcel)
        self._forget(lambda one: one.key == parcel.key)

    def next_batch(self, now_s: float) -> Batch | None:
        """What to compute next; None while there is nothing, or no replica is free."""
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
        """The batch was computed."""
        del self._running[batch.id]
        for parcel in batch.parcels:
            if job := self._jobs.get(parcel.job):
                job.computed += len(parcel.windows)

    def worker_died(self, batch: Batch) -> list[Parcel]:
        """The worker died under this batch. What is wanted of it is tried once more, each parcel alone.

        Returns the parcels that had their second chance already: these are to be given up.
        """
        del self._running[batch.id]
        known = {parcel.job for parcel in self._retries}  # a death ends several batches, and counts once
        for job in ({parcel.job for parcel in batch.parcels} & self._jobs.keys()) - known:
            self._jobs[job].interrupt()
        self._retries += [
            replace(parcel, is_retry=True)
            for parcel in batch.wanted
            if parcel.job in self._jobs and not parcel.is_retry
        ]
        return [parcel for parcel in batch.wanted if parcel.is_retry]

    def refused(self, batch: Batch) -> list[Parcel]:
        """The engine answered this batch with an error. Of several parcels each is tried alone.

        Returns the parcels that are to be given up: one that was alone.
        """
        if len(batch.parcels) > 1:
            return self.worker_died(batch)
        self.done(batch)
        return batch.wanted

    @property
    def waiting(self) -> int:
        """How many windows wait for a batch."""
        retries = sum(len(parcel.windows) for parcel in self._retries)
        return retries + sum(one.waiting_windows for one in self._classes.values())

    def waiting_s(self, job: str) -> float:
        """How much audio of a known job waits for a batch."""
        return sum(parcel.duration_s for parcel in self._jobs[job].waiting)

    def has_enough(self, priority: Priority) -> bool:
        """Whether so much of a class waits that no more is needed now."""
        return self._classes[priority].has_enough

    @property
    def has_room(self) -> bool:
        """Whether a window that came now would be computed at once."""
        return (
            len(self._running) < self._replicas
            and not self._is_retrying()
            and not (self._retries or self._due())
        )

    def _forget(self, are_meant: Callable[[Parcel], bool]) -> None:
        """Try certain parcels no more; of what is being computed they are unwanted."""
        self._retries = deque(parcel for parcel in self._retries if not are_meant(parcel))
        for batch in self._running.values():
            if groups := [group for group, parcel in enumerate(batch.parcels) if are_meant(parcel)]:
                batch.unwanted.add(groups)

    def _start(self, parcels: Sequence[Parcel], of: JobClass) -> Batch:
        batch = Batch(next(self._ids), tuple(parcels), of.rank)
        self._running[batch.id] = batch
        return batch

    def _due(self) -> list[JobClass]:
        """The classes that have work and are not held, the highest first."""
        return [one for priority, one in self._classes.items() if one.ready and priority not in self.held]

    def _is_retrying(self) -> bool:
        return any(batch.is_retry for batch in self._running.values())

    def _next_class(self, now_s: float) -> JobClass | None:
        """The class that was passed over for too long, or else the highest, of those that have work."""
        due = self._due()
        starved = [one for one in due if now_s - one.passed_over_since_s > STARVATION_S]
        if starved:
            return min(starved, key=lambda one: one.passed_over_since_s)
        return due[0] if due else None

    def _overtaking_class(self) -> JobClass | None:
        """The highest class that has work, if it is higher than all that is computed."""
        if not self._overtakes or len(self._running) > self._replicas:
            return None
        highest = min(batch.rank for batch in self._running.values())
        return next((one for one in self._due() if one.rank < highest), None)
