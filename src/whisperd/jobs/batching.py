"""What is computed together, of the jobs of one class. Pure.

* The job that has had the least audio computed leads the next batch. A job that comes late starts level with
  it instead of being given the past of the others, and one that had nothing to do for a while makes up for no
  more than `LEAD_LIMIT_S`.
* A batch holds windows with equal options and like lengths, as it is padded to the longest; or with the same
  context, where the engine computes no others together. It begins with the job's window that has waited
  longest. Its free room goes to the job that has had least and has a window that fits, and to the one of its
  windows that is most alike; no job gets `LEAD_LIMIT_S` ahead of another that waits.
* The last of the work is shared out: where no job of the class has more to come, a batch holds no more than a
  replica's part of the audio that waits, or a single window. What a larger batch gains is little beside what
  an idle replica loses. Once there is a replica for each of the last windows, the longest begins.
* A job whose work was interrupted, because the daemon or the worker died under it, has smaller batches for a
  while: less is lost the next time, and less memory needed. Each such end halves them, but where a daemon
  had computed much until it died they hold `PART_AT_RISK` of that, up to half of what they usually do; with
  each `TRUST_WINDOWS` computed since, they may be larger by one.
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


class Capacity(NamedTuple):
    """What an engine computes at once."""

    batch_size: int
    """Windows."""
    replicas: int
    context_of: Callable[[float], int] | None
    """What context a window of so many seconds has, if a batch holds equal ones."""


@dataclass(frozen=True)
class Past:
    """What is known of a job by those who have worked on it before."""

    interruptions: int = 0
    """How often its daemon or a worker has died under it."""
    windows_before: int = 0
    """Windows that were computed until it did so the last time, since the time before."""


NO_PAST = Past()


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


@dataclass(eq=False)
class QueuedJob:
    """A job's waiting windows, and how much of its audio was computed."""

    id: str
    of: JobClass
    served_s: float
    past: Past
    computed: int = 0
    """Windows since it was interrupted last."""
    is_complete: bool = False
    """Whether no more windows of it are to come."""
    waiting: deque[Parcel] = field(default_factory=deque)

    def put(self, parcel: Parcel, now_s: float) -> None:
        """A parcel waits from now on."""
        if not self.of.ready:
            self.of.passed_over_since_s = now_s
        if not self.waiting:
            self.served_s = max(self.served_s, self.of.level_s - LEAD_LIMIT_S)
            self.of.ready[self.id] = self
        self.waiting.append(parcel)
        self.of.waiting_s += parcel.duration_s
        self.of.waiting_windows += len(parcel.windows)

    def drop(self, parcel: Parcel) -> None:
        """A parcel does not wait any more."""
        self.waiting.remove(parcel)
        self.of.waiting_s -= parcel.duration_s
        self.of.waiting_windows -= len(parcel.windows)
        if not self.waiting:
            del self.of.ready[self.id]

    def take(self, parcel: Parcel) -> Parcel:
        """A parcel is computed."""
        self.drop(parcel)
        self.served_s += parcel.duration_s
        return parcel

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


@dataclass(eq=False)
class JobClass:
    """The jobs of one priority."""

    rank: int
    """The lower, the sooner."""
    capacity: Capacity
    jobs: dict[str, QueuedJob] = field(default_factory=dict)
    ready: dict[str, QueuedJob] = field(default_factory=dict)
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

    @property
    def has_enough(self) -> bool:
        """Whether what waits is `AHEAD_S` long, or fills the batches of all replicas.

        Where batches hold equal contexts only, it takes more windows to fill them, and nobody counts.
        """
        fills_all = self.waiting_windows >= self.capacity.batch_size * self.capacity.replicas
        return self.waiting_s >= AHEAD_S or (fills_all and self.capacity.context_of is None)

    def add_job(self, job: str, past: Past) -> None:
        """Make a place for a job."""
        self.jobs[job] = QueuedJob(job, self, self.level_s, past)

    def remove_job(self, job: str) -> None:
        """Forget a job and its waiting windows."""
        if gone := self.jobs.pop(job, None):
            while gone.waiting:
                gone.drop(gone.waiting[0])

    def compose(self) -> list[Parcel]:
        """The next batch: a first parcel, then what goes well with it."""
        ready, share_s, batch_size = self.ready, self._share_s(), self.capacity.batch_size
        leader, first = self._first()
        leader.take(first)
        parcels = [first]
        most, count = leader.most_windows(batch_size), len(first.windows)
        share_s -= first.duration_s
        while count < most and ready:
            limit_s = min(map(_served_s, ready.values())) + LEAD_LIMIT_S
            is_like = self._is_like(parcels)
            others = sorted((job for job in ready.values() if job.served_s <= limit_s), key=_served_s)
            found = (
                (job, parcel)
                for job in others
                if (room := min(most, job.most_windows(batch_size)) - count)
                and (parcel := job.most_alike(first, is_like, room, share_s))
            )
            if (best := next(found, None)) is None:
                break
            job, parcel = best
            parcels.append(job.take(parcel))
            most = min(most, job.most_windows(batch_size))
            count += len(parcel.windows)
            share_s -= parcel.duration_s
        self.last_served_s = leader.served_s
        return parcels

    def _first(self) -> tuple[QueuedJob, Parcel]:
        """What leads the next batch: the oldest of the job that has had least, or the longest of the last."""
        if self._is_ending and self.waiting_windows <= self.capacity.replicas:
            last = ((job, parcel) for job in self.ready.values() for parcel in job.waiting)
            return max(last, key=lambda one: one[1].duration_s)
        leader = min(self.ready.values(), key=_served_s)
        return leader, leader.waiting[0]

    def _is_like(self, batch: Sequence[Parcel]) -> IsLike:
        """Which lengths go together with those of a batch."""
        if context_of := self.capacity.context_of:
            context = context_of(batch[0].longest_s)
            return lambda length_s: context_of(length_s) == context
        lengths = [one.longest_s for one in batch]
        shortest_s, longest_s = max(lengths) / LIKE_LENGTH_RATIO, min(lengths) * LIKE_LENGTH_RATIO
        return lambda length_s: shortest_s <= length_s <= longest_s

    @property
    def _is_ending(self) -> bool:
        """Whether no more is to come."""
        return all(job.is_complete for job in self.jobs.values())

    def _share_s(self) -> float:
        """A replica's part of the audio that waits, if no more is to come; else there is no limit."""
        if not self._is_ending:
            return math.inf
        return self.waiting_s / self.capacity.replicas * SHARE_MARGIN


def _served_s(job: QueuedJob) -> float:
    return job.served_s
