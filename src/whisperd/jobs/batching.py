"""How windows of the jobs of one class form batches. Pure.

* The job with the least audio computed leads the next batch. A new job starts level with that job instead of
  catching up with the others' past, and a job that was idle for a while catches up by at most `LEAD_LIMIT_S`.
* A batch is padded to its longest window, so it holds windows with equal options and similar lengths; or with
  the same context, where the engine cannot batch different ones. It begins with the job's window that has
  waited longest. Its free room goes to the job with the least audio computed that has a fitting window, and
  to the most similar of its windows; no job gets `LEAD_LIMIT_S` ahead of another that waits.
* The end of the work is divided: once no job of the class expects more windows, a batch holds at most one
  replica's share of the waiting audio, or a single window. A larger batch gains less than an idle replica
  loses. Once there is a replica for each remaining window, the longest goes first.
* A job that was interrupted, because the daemon or the worker died under it, gets smaller batches for a
  while: the next interruption loses less, and batches need less memory. Each interruption halves them. But if
  a daemon had computed much before it died, they hold a third of that (`PART_AT_RISK`), up to half of the
  usual size. Every `TRUST_WINDOWS` windows computed since raise the limit by one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from whisperd.worker.protocol import DecodeOptions, EngineWindow

__all__ = ["NO_PAST", "Capacity", "JobClass", "Parcel", "Past", "QueuedJob"]

LEAD_LIMIT_S = 60.0
"""How much more computed audio a job may have than another waiting job of its class, in seconds."""
AHEAD_S = 90.0
"""Waiting audio of a class that is enough work, even if it does not fill all batches, in seconds."""
LOOK_AHEAD = 16
"""How many of a job's waiting parcels are considered when looking for the most similar one."""
TRUST_WINDOWS = 8
"""Computed windows of an interrupted job after which its batches may grow by one."""
PART_AT_RISK = 3
"""One batch holds at most a third of what was computed between two interruptions. Much smaller ones would
cost more than they save, because batching makes windows a fifth to a quarter cheaper."""
SHARE_MARGIN = 1.1
"""How much larger than a replica's equal share a batch may be, because windows cannot be divided."""
MAX_LENGTH_RATIO = 1.5
"""Longest to shortest window of a batch: padding to the longest wastes time on much shorter ones."""


FitsBatch = Callable[[float], bool]
"""Whether a window of this length, in seconds, fits a batch."""


class Capacity(NamedTuple):
    """How much an engine computes at once."""

    batch_size: int
    """Windows."""
    replicas: int
    context_of: Callable[[float], int] | None
    """Returns the context of a window of this length in seconds, if batches need equal contexts."""


@dataclass(frozen=True)
class Past:
    """What is known from earlier runs of a job."""

    interruptions: int = 0
    """How many times its daemon or a worker died under it."""
    windows_before: int = 0
    """Windows computed by the run that was interrupted last."""


NO_PAST = Past()


@dataclass(frozen=True)
class Parcel:
    """Windows of one job that go into the same batch: usually one, several when they vote on the language."""

    job: str
    indexes: tuple[int, ...]
    windows: tuple[EngineWindow, ...]
    options: DecodeOptions
    is_retry: bool = False

    @property
    def key(self) -> tuple[str, tuple[int, ...]]:
        """Identity: a job never has two parcels with the same windows."""
        return self.job, self.indexes

    @property
    def duration_s(self) -> float:
        """Total audio of its windows, in seconds."""
        return sum(window.duration_s for window in self.windows)

    @property
    def longest_s(self) -> float:
        """Length of its longest window, in seconds."""
        return max(window.duration_s for window in self.windows)


@dataclass(eq=False)
class QueuedJob:
    """A job's waiting windows, and how much of its audio was computed."""

    id: str
    of: JobClass
    served_s: float
    past: Past
    computed: int = 0
    """Windows computed since its last interruption."""
    is_complete: bool = False
    """Whether all of its windows were added."""
    waiting: deque[Parcel] = field(default_factory=deque)

    def put(self, parcel: Parcel, now_s: float) -> None:
        """Add a waiting parcel."""
        if not self.of.ready:
            self.of.passed_over_since_s = now_s
        if not self.waiting:
            self.served_s = max(self.served_s, self.of.level_s - LEAD_LIMIT_S)
            self.of.ready[self.id] = self
        self.waiting.append(parcel)
        self.of.waiting_s += parcel.duration_s
        self.of.waiting_windows += len(parcel.windows)

    def drop(self, parcel: Parcel) -> None:
        """Remove a waiting parcel."""
        self.waiting.remove(parcel)
        self.of.waiting_s -= parcel.duration_s
        self.of.waiting_windows -= len(parcel.windows)
        if not self.waiting:
            del self.of.ready[self.id]

    def take(self, parcel: Parcel) -> Parcel:
        """Remove a waiting parcel to compute it."""
        self.drop(parcel)
        self.served_s += parcel.duration_s
        return parcel

    def interrupt(self) -> None:
        """Note that the worker died under this job."""
        self.past = Past(self.past.interruptions + 1)
        self.computed = 0

    def max_windows(self, batch_size: int) -> int:
        """Return the limit of windows of a batch that contains some of this job."""
        if not self.past.interruptions:
            return batch_size
        at_risk = min(self.past.windows_before // PART_AT_RISK, batch_size // 2)
        least = max(1, batch_size >> self.past.interruptions, at_risk)
        return min(batch_size, least + self.computed // TRUST_WINDOWS)

    def best_fit(self, first: Parcel, fits: FitsBatch, room: int, room_s: float) -> Parcel | None:
        """Return the parcel that fits best behind `first`, within this room in windows and seconds."""
        fitting = (
            one
            for one in islice(self.waiting, LOOK_AHEAD)
            if len(one.windows) <= room
            and one.duration_s <= room_s
            and fits(one.longest_s)
            and one.options == first.options
        )
        return min(fitting, key=lambda one: abs(one.longest_s - first.longest_s), default=None)


@dataclass(eq=False)
class JobClass:
    """The jobs of one priority."""

    rank: int
    """Lower ranks go first."""
    capacity: Capacity
    jobs: dict[str, QueuedJob] = field(default_factory=dict)
    ready: dict[str, QueuedJob] = field(default_factory=dict)
    """Jobs that have waiting windows."""
    passed_over_since_s: float = 0.0
    """Clock time when this class was last served, or began to wait."""
    waiting_s: float = 0.0
    """Audio of all waiting windows."""
    waiting_windows: int = 0
    last_served_s: float = 0.0
    """Audio computed of the job that led the last batch."""

    @property
    def level_s(self) -> float:
        """Where a new job starts: level with the job with the least audio computed."""
        return min(map(_served_s, self.ready.values()), default=self.last_served_s)

    @property
    def has_enough(self) -> bool:
        """Whether the waiting audio is `AHEAD_S` long, or fills the batches of all replicas.

        If batches need equal contexts, filling them takes more windows, so only the audio counts.
        """
        fills_all = self.waiting_windows >= self.capacity.batch_size * self.capacity.replicas
        return self.waiting_s >= AHEAD_S or (fills_all and self.capacity.context_of is None)

    def add_job(self, job: str, past: Past) -> None:
        """Add a job."""
        self.jobs[job] = QueuedJob(job, self, self.level_s, past)

    def remove_job(self, job: str) -> None:
        """Remove a job and its waiting windows."""
        if gone := self.jobs.pop(job, None):
            while gone.waiting:
                gone.drop(gone.waiting[0])

    def compose(self) -> list[Parcel]:
        """Return the next batch: a first parcel and those that fit it."""
        ready, share_s, batch_size = self.ready, self._share_s(), self.capacity.batch_size
        leader, first = self._first()
        leader.take(first)
        parcels = [first]
        most, count = leader.max_windows(batch_size), len(first.windows)
        share_s -= first.duration_s
        while count < most and ready:
            limit_s = min(map(_served_s, ready.values())) + LEAD_LIMIT_S
            fits = self._fits(parcels)
            others = sorted((job for job in ready.values() if job.served_s <= limit_s), key=_served_s)
            found = (
                (job, parcel)
                for job in others
                if (room := min(most, job.max_windows(batch_size)) - count)
                and (parcel := job.best_fit(first, fits, room, share_s))
            )
            if (best := next(found, None)) is None:
                break
            job, parcel = best
            parcels.append(job.take(parcel))
            most = min(most, job.max_windows(batch_size))
            count += len(parcel.windows)
            share_s -= parcel.duration_s
        self.last_served_s = leader.served_s
        return parcels

    def _first(self) -> tuple[QueuedJob, Parcel]:
        """Return what leads the batch: the oldest parcel of the job served least; at the end, the longest."""
        if self._is_ending and self.waiting_windows <= self.capacity.replicas:
            last = ((job, parcel) for job in self.ready.values() for parcel in job.waiting)
            return max(last, key=lambda one: one[1].duration_s)
        leader = min(self.ready.values(), key=_served_s)
        return leader, leader.waiting[0]

    def _fits(self, batch: Sequence[Parcel]) -> FitsBatch:
        """Return a test for lengths that fit this batch."""
        if context_of := self.capacity.context_of:
            context = context_of(batch[0].longest_s)
            return lambda length_s: context_of(length_s) == context
        lengths = [one.longest_s for one in batch]
        shortest_s, longest_s = max(lengths) / MAX_LENGTH_RATIO, min(lengths) * MAX_LENGTH_RATIO
        return lambda length_s: shortest_s <= length_s <= longest_s

    @property
    def _is_ending(self) -> bool:
        """Whether no job expects more windows."""
        return all(job.is_complete for job in self.jobs.values())

    def _share_s(self) -> float:
        """Return a replica's share of the waiting audio once no more is expected; no limit before that."""
        if not self._is_ending:
            return math.inf
        return self.waiting_s / self.capacity.replicas * SHARE_MARGIN


def _served_s(job: QueuedJob) -> float:
    return job.served_s
