"""Which windows are computed next. Pure: no I/O, and the clock is passed in.

The window is the unit of work. Windows of all jobs on a runtime share its batches, so a short clip
never waits for a long file to end. The rules:

* A higher class goes first (`interactive`, `normal`, `bulk`), but once a class with work was passed
  over for `STARVATION_S`, the next batch is its own.
* A class need not wait for batches of lower ones to end: where the engine lets it overtake, one batch of
  it is computed beside them, though no replica is free.
* Within a class the job that has had the least audio computed leads the next batch. A job that comes
  late starts level with it instead of being given the past of the others, and one that had nothing
  to do for a while makes up for no more than `LEAD_LIMIT_S`.
* A batch holds windows of one class with equal options and like lengths, as it is padded to the longest; or
  with the same context, where the engine computes no others together. It begins with the job's window that
  has waited longest. Its free room goes to the job that has had least and has a window that fits, and to the
  one of its windows that is most alike; no job gets `LEAD_LIMIT_S` ahead of another that waits.
* The last of the work is shared out: where no job of the class has more to come, a batch holds no more than a
  replica's part of the audio that waits, or a single window. What a larger batch gains is little beside what
  an idle replica loses.
* A job whose work was interrupted, because the daemon or the worker died under it, has smaller batches for a
  while: less is lost the next time, and less memory needed. Each such end halves them, but where a daemon
  had computed much until it died they hold `PART_AT_RISK` of that, up to half of what they usually do; with
  each `TRUST_WINDOWS` computed since, they may be larger by one.
* Windows that were being computed when the worker died run again once, each one alone and with
  nothing beside it, so that only the window at fault can fail. So do windows of several parcels that
  the engine refused together.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Literal, get_args

import msgspec

from whisperd.worker.protocol import DecodeOptions, EngineWindow

__all__ = ["Batch", "Parcel", "Past", "Priority", "WindowScheduler"]

Priority = Literal["interactive", "normal", "bulk"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

STARVATION_S = 20.0
"""Longest time that a class with work is passed over."""
LEAD_LIMIT_S = 60.0
"""Audio that a job may have had more than another one of its class that waits."""
AHEAD_S = 90.0
"""Audio of a class that waits, with which there is enough to do, even where it does not fill all batches."""
LOOK_AHEAD = 16
"""How many of a job's waiting parcels are looked at for the one that is most alike."""
TRUST_WINDOWS = 8
"""Windows of a job that was interrupted after which its batches may be larger by one."""
PART_AT_RISK = 3
"""One batch holds at most a third of what was computed between two interruptions: much smaller ones cost more
than what they save, for windows that are computed together are a fifth to a quarter cheaper."""
SHARE_MARGIN = 1.1
"""How much larger than a replica's equal part a batch may be: windows cannot be divided."""
LIKE_LENGTH_RATIO = 1.5
"""A batch is padded to its longest window; one much shorter would pay for it."""


IsLike = Callable[[float], bool]
"""Whether a window of so many seconds goes into a batch."""


@dataclass(frozen=True)
class Past:
    """What is known of a job by those who have worked on it before."""

    interruptions: int = 0
    """How often its daemon has died under it."""
    windows_before: int = 0
    """Windows that were computed until it did so the last time, since the time before."""


@dataclass(frozen=True)
class Parcel:
    """Windows of one job that are computed in one batch: usually one, several where they vote."""

    job: str
    indexes: tuple[int, ...]
    windows: tuple[EngineWindow, ...]
    options: DecodeOptions
    is_retry: bool = False

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """What it is known by: no job has two of the same windows."""
        return self.job, self.indexes

    @property
    def duration_s(self) -> float:
        """Audio in all its windows, in seconds."""
        return sum(window.duration_s for window in self.windows)

    @property
    def longest_s(self) -> float:
        """The longest window, in seconds."""
        return max(window.duration_s for window in self.windows)


@dataclass(frozen=True)
class Batch:
    """Parcels that go to the worker together."""

    id: int
    parcels: tuple[Parcel, ...]
    rank: int
    """Of its class: the lower, the sooner."""

    @property
    def windows(self) -> tuple[EngineWindow, ...]:
        """All windows, in the order of the parcels; `group` tells the parcels apart."""
        return tuple(
            msgspec.structs.replace(window, group=group)
            for group, parcel in enumerate(self.parcels)
            for window in parcel.windows
        )

    def groups_of(self, job: str) -> tuple[int, ...]:
        """The groups that are windows of a job."""
        return tuple(group for group, parcel in enumerate(self.parcels) if parcel.job == job)

    def groups_with(self, parcel: Parcel) -> tuple[int, ...]:
        """The groups that are these windows."""
        return tuple(group for group, one in enumerate(self.parcels) if one.key == parcel.key)

    @property
    def options(self) -> DecodeOptions:
        """The options that all its windows share."""
        return self.parcels[0].options

    @property
    def is_retry(self) -> bool:
        """Whether it is the second chance of a parcel, which is alone in it."""
        return self.parcels[0].is_retry


@dataclass(eq=False)
class _Class:
    """The jobs of one priority."""

    rank: int
    ready: dict[str, _Job] = field(default_factory=dict)
    """Those that have windows waiting."""
    passed_over_since_s: float = 0.0
    """By the clock: when it was served last, or began to wait."""
    waiting_s: float = 0.0
    """Audio in all windows that wait."""
    waiting_windows: int = 0
    last_served_s: float = 0.0
    """What the job that led the last batch has had."""

    @property
    def level_s(self) -> float:
        """Where a new job starts: with the one that has had least."""
        return min(map(_served_s, self.ready.values()), default=self.last_served_s)


@dataclass(eq=False)
class _Job:
    """A job's waiting windows, and how much of its audio was computed."""

    id: str
    of: _Class
    served_s: float
    past: Past = Past()
    computed: int = 0
    """Windows since it was interrupted last."""
    is_complete: bool = False
    """Whether no more windows of it are to come."""
    waiting: deque[Parcel] = field(default_factory=deque)

    def put(self, parcel: Parcel, now_s: float) -> None:
        if not self.of.ready:
            self.of.passed_over_since_s = now_s
        if not self.waiting:
            self.served_s = max(self.served_s, self.of.level_s - LEAD_LIMIT_S)
            self.of.ready[self.id] = self
        self.waiting.append(parcel)
        self.of.waiting_s += parcel.duration_s
        self.of.waiting_windows += len(parcel.windows)

    def most_alike(self, first: Parcel, is_like: IsLike, room: int, room_s: float) -> Parcel | None:
        """What fits best into a batch that `first` leads, with this room in windows and seconds."""
        fitting = (
            one
            for one in islice(self.waiting, LOOK_AHEAD)
            if len(one.windows) <= room
            and one.duration_s <= room_s
            and is_like(one.longest_s)
            and one.options == first.options
        )
        return min(fitting, key=lambda one: abs(one.longest_s - first.longest_s), default=None)

    def interrupt(self) -> None:
        """The worker died under it."""
        self.past = Past(self.past.interruptions + 1)
        self.computed = 0

    def most_windows(self, batch_size: int) -> int:
        """How many windows a batch may hold that has some of this job."""
        if not self.past.interruptions:
            return batch_size
        at_risk = min(self.past.windows_before // PART_AT_RISK, batch_size // 2)
        least = max(1, batch_size >> self.past.interruptions, at_risk)
        return min(batch_size, least + self.computed // TRUST_WINDOWS)

    def take(self, parcel: Parcel) -> Parcel:
        self.drop(parcel)
        self.served_s += parcel.duration_s
        return parcel

    def drop(self, parcel: Parcel) -> None:
        self.waiting.remove(parcel)
        self.of.waiting_s -= parcel.duration_s
        self.of.waiting_windows -= len(parcel.windows)
        if not self.waiting:
            del self.of.ready[self.id]


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
        self._batch_size = batch_size
        self._replicas = replicas
        self._overtakes = overtakes
        self._context_of = context_of
        self._classes: dict[Priority, _Class] = {
            priority: _Class(rank) for rank, priority in enumerate(PRIORITIES)
        }
        self._jobs: dict[str, _Job] = {}
        self._expected: dict[str, _Class] = {}
        self._retries: deque[Parcel] = deque()
        self._running: dict[int, Batch] = {}
        self._ids = count()
        self.held: frozenset[Priority] = frozenset()
        """Classes that wait, whatever there is to do."""

    def expect(self, job: str, priority: Priority) -> None:
        """A job will be added, or removed, later."""
        self._expected[job] = self._classes[priority]

    def add_job(self, job: str, priority: Priority, past: Past = Past()) -> None:
        """Make a place for a job."""
        self._expected.pop(job, None)
        its_class = self._classes[priority]
        self._jobs[job] = _Job(job, its_class, its_class.level_s, past)

    def add(self, parcel: Parcel, now_s: float) -> None:
        """Windows of a known job wait from now on. More than a batch holds make a batch by themselves."""
        self._jobs[parcel.job].put(parcel, now_s)

    def complete(self, job: str) -> None:
        """All windows of a known job were added."""
        self._jobs[job].is_complete = True

    def remove_job(self, job: str) -> dict[int, tuple[int, ...]]:
        """Forget a job and its waiting windows.

        Returns what is being computed of it: the groups of each running batch, by the batch's id.
        """
        self._expected.pop(job, None)
        if gone := self._jobs.pop(job, None):
            gone.of.ready.pop(job, None)
            gone.of.waiting_s -= sum(parcel.duration_s for parcel in gone.waiting)
            gone.of.waiting_windows -= sum(len(parcel.windows) for parcel in gone.waiting)
            self._retries = deque(parcel for parcel in self._retries if parcel.job != job)
        running = {number: batch.groups_of(job) for number, batch in self._running.items()}
        return {number: groups for number, groups in running.items() if groups}

    def withdraw(self, parcel: Parcel) -> dict[int, tuple[int, ...]]:
        """Forget a parcel that nobody waits for any more, though its job goes on.

        Returns what is being computed of it, as `remove_job` does.
        """
        if (job := self._jobs.get(parcel.job)) and parcel in job.waiting:
            job.drop(parcel)
        self._retries = deque(one for one in self._retries if one.key != parcel.key)
        running = {number: batch.groups_with(parcel) for number, batch in self._running.items()}
        return {number: groups for number, groups in running.items() if groups}

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
        return self._start(self._compose(next_class), next_class)

    def done(self, batch: Batch) -> None:
        """The batch was computed."""
        del self._running[batch.id]
        for parcel in batch.parcels:
            if job := self._jobs.get(parcel.job):
                job.computed += len(parcel.windows)

    def worker_died(self, batch: Batch) -> list[Parcel]:
        """The worker died under this batch. Each parcel is tried once more, alone.

        Returns the parcels that had their second chance already: these are to be given up.
        """
        del self._running[batch.id]
        known = {parcel.job for parcel in self._retries}  # a death ends several batches, and counts once
        for job in ({parcel.job for parcel in batch.parcels} & self._jobs.keys()) - known:
            self._jobs[job].interrupt()
        self._retries += [
            replace(parcel, is_retry=True)
            for parcel in batch.parcels
            if parcel.job in self._jobs and not parcel.is_retry
        ]
        return [parcel for parcel in batch.parcels if parcel.is_retry]

    def refused(self, batch: Batch) -> list[Parcel]:
        """The engine answered this batch with an error. Of several parcels each is tried alone.

        Returns the parcels that are to be given up: one that was alone.
        """
        if len(batch.parcels) > 1:
            return self.worker_died(batch)
        self.done(batch)
        return list(batch.parcels)

    @property
    def waiting(self) -> int:
        """How many windows wait for a batch."""
        return sum(
            len(parcel.windows)
            for parcels in (self._retries, *(job.waiting for job in self._jobs.values()))
            for parcel in parcels
        )

    def has_enough(self, priority: Priority) -> bool:
        """Whether what waits in a class is `AHEAD_S` long, or fills the batches of all replicas.

        Where batches hold equal contexts only, it takes more windows to fill them, and nobody counts.
        """
        of = self._classes[priority]
        fills_all = of.waiting_windows >= self._batch_size * self._replicas
        return of.waiting_s >= AHEAD_S or (fills_all and self._context_of is None)

    @property
    def has_room(self) -> bool:
        """Whether a window that came now would be computed at once."""
        return (
            len(self._running) < self._replicas
            and not self._is_retrying()
            and not (self._retries or any(map(self._is_due, PRIORITIES)))
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""
        return not (self._running or self._retries or any(one.ready for one in self._classes.values()))

    def _start(self, parcels: Sequence[Parcel], of: _Class) -> Batch:
        batch = Batch(next(self._ids), tuple(parcels), of.rank)
        self._running[batch.id] = batch
        return batch

    def _is_due(self, priority: Priority) -> bool:
        return bool(self._classes[priority].ready) and priority not in self.held

    def _is_retrying(self) -> bool:
        return any(batch.is_retry for batch in self._running.values())

    def _next_class(self, now_s: float) -> _Class | None:
        """The class that was passed over for too long, or else the highest, of those that have work."""
        waiting = [self._classes[priority] for priority in PRIORITIES if self._is_due(priority)]
        starved = [one for one in waiting if now_s - one.passed_over_since_s > STARVATION_S]
        if starved:
            return min(starved, key=lambda one: one.passed_over_since_s)
        return waiting[0] if waiting else None

    def _overtaking_class(self) -> _Class | None:
        """The highest class that has work, if it is higher than all that is computed."""
        if not self._overtakes or len(self._running) > self._replicas:
            return None
        highest = min(batch.rank for batch in self._running.values())
        due = (self._classes[priority] for priority in PRIORITIES if self._is_due(priority))
        return next((one for one in due if one.rank < highest), None)

    def _compose(self, of: _Class) -> list[Parcel]:
        """The first parcel of the least served job, then what goes well with it."""
        ready, share_s = of.ready, self._share_s(of)
        leader = min(ready.values(), key=_served_s)
        first = leader.take(leader.waiting[0])
        parcels = [first]
        most, count = leader.most_windows(self._batch_size), len(first.windows)
        share_s -= first.duration_s
        while count < most and ready:
            limit_s = min(map(_served_s, ready.values())) + LEAD_LIMIT_S
            is_like = self._is_like(parcels)
            others = sorted((job for job in ready.values() if job.served_s <= limit_s), key=_served_s)
            found = (
                (job, parcel)
                for job in others
                if (room := min(most, job.most_windows(self._batch_size)) - count)
                and (parcel := job.most_alike(first, is_like, room, share_s))
            )
            if (best := next(found, None)) is None:
                break
            job, parcel = best
            parcels.append(job.take(parcel))
            most = min(most, job.most_windows(self._batch_size))
            count += len(parcel.windows)
            share_s -= parcel.duration_s
        of.last_served_s = leader.served_s
        return parcels

    def _is_like(self, batch: Sequence[Parcel]) -> IsLike:
        """Which lengths go together with those of a batch."""
        if context_of := self._context_of:
            context = context_of(batch[0].longest_s)
            return lambda length_s: context_of(length_s) == context
        lengths = [one.longest_s for one in batch]
        shortest_s, longest_s = max(lengths) / LIKE_LENGTH_RATIO, min(lengths) * LIKE_LENGTH_RATIO
        return lambda length_s: shortest_s <= length_s <= longest_s

    def _share_s(self, of: _Class) -> float:
        """A replica's part of the audio that waits, if no more is to come; else there is no limit."""
        if of in self._expected.values() or any(
            not job.is_complete for job in self._jobs.values() if job.of is of
        ):
            return math.inf
        return of.waiting_s / self._replicas * SHARE_MARGIN


def _served_s(job: _Job) -> float:
    return job.served_s
