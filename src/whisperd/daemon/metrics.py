"""Counts what happens while the daemon runs, as metrics for Prometheus.

Most counts are taken from the events that clients receive. No label contains the name of a recording, and the
number of label values does not grow with the work done: they are statuses, runtimes and kinds of processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from whisperd.daemon.exposition import Family, Histogram, Sample, by_label
from whisperd.rpc.events import (
    Event,
    JobQueued,
    JobStarted,
    RuntimeStatus,
    TranscriptionCancelled,
    TranscriptionCompleted,
    TranscriptionFailed,
)

__all__ = ["Metrics"]

WATCH_OUTCOMES: Final = ("done", "retried", "failed")
ENDS: Final = ("completed", "failed", "cancelled")
WAIT_BOUNDS_S: Final = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)
"""From a job whose runtime is loaded to one at the end of a long queue."""
WORK_BOUNDS_S: Final = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800)
"""From a spoken command to a day of recordings."""
WATCH_BOUNDS_S: Final = (1, 3, 10, 30, 60, 300, 900, 3600, 10800, 43200, 86400)
"""From a memo to a file that waited for the end of quiet hours."""
AUDIO_BOUNDS_S: Final = (1, 3, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 86400)
MOST_JOBS: Final = 20_000
"""At most so many queued jobs have their submission time remembered."""
MOST_RUNTIMES: Final = 1000
"""At most so many runtimes are counted by name; later ones are counted together."""
OTHER_RUNTIMES: Final = "other"


class Metrics:
    """The counters and histograms of the daemon. Times are passed in, in seconds."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._cached = 0
        self._audio_s = 0.0
        self._work_s = 0.0
        self._waits = Histogram(WAIT_BOUNDS_S)
        self._works = Histogram(WORK_BOUNDS_S)
        self._lengths = Histogram(AUDIO_BOUNDS_S)
        self._queued_s: dict[str, float] = {}
        self._loads: Counter[str] = Counter()
        self._load_failures: Counter[str] = Counter()
        self._watched: Counter[str] = Counter()
        self._watch_works = Histogram(WATCH_BOUNDS_S)
        self._relieved = 0
        self._suspended_s = 0.0
        self._suspensions = 0

    def take(self, event: Event, now_s: float) -> None:
        """Count an event."""
        match event:
            case JobQueued(id=job):
                if len(self._queued_s) < MOST_JOBS:
                    self._queued_s[job] = now_s
            case JobStarted(id=job):
                if (queued_s := self._queued_s.pop(job, None)) is not None:
                    self._waits.observe(now_s - queued_s)
            case TranscriptionCompleted():
                self._completed(event)
            case TranscriptionFailed(id=job):
                self._over(job, "failed")
            case TranscriptionCancelled(id=job):
                self._over(job, "cancelled")
            case RuntimeStatus(name=name, status="loaded", error=None):
                self._loads[_label(name, self._loads)] += 1
            case RuntimeStatus(name=name, status="failed"):
                self._load_failures[_label(name, self._load_failures)] += 1

    def watched(self, outcome: str, settled_for_s: float | None) -> None:
        """Count a file of a watch folder that is done, has failed, or will be retried; `settled_for_s` is how
        long ago it had settled, if it is done and that is known.
        """
        self._watched[outcome] += 1
        if settled_for_s is not None:
            self._watch_works.observe(settled_for_s)

    def relieved(self, runtimes: int) -> None:
        """Count runtimes that were unloaded because memory was short."""
        self._relieved += runtimes

    def suspended(self, for_s: float) -> None:
        """Count a suspension of the computer and its duration."""
        self._suspensions += 1
        self._suspended_s += for_s

    def families(self) -> Iterable[Family]:
        """Return all metrics of this object."""
        watched = {outcome: self._watched[outcome] for outcome in WATCH_OUTCOMES}
        for name, help, samples in (
            (
                "jobs_total",
                "Ends of jobs, by status; a job that is retried ends again.",
                by_label("status", {status: self._ended[status] for status in ENDS}),
            ),
            ("jobs_cached_total", "Jobs whose result was a stored transcript.", [Sample(self._cached)]),
            ("audio_seconds_total", "Audio transcribed, in seconds.", [Sample(self._audio_s)]),
            (
                "transcribing_seconds_total",
                "Time spent transcribing jobs, in seconds; audio divided by this is the speed.",
                [Sample(self._work_s)],
            ),
            (
                "watch_files_total",
                "Files of watch folders, by outcome.",
                by_label("outcome", watched),
            ),
            ("runtime_loads_total", "Successful loads of a runtime.", by_label("runtime", self._loads)),
            (
                "runtime_failures_total",
                "Failed loads of a runtime.",
                by_label("runtime", self._load_failures),
            ),
            ("memory_relief_total", "Runtimes unloaded because memory was short.", [Sample(self._relieved)]),
            ("suspensions_total", "Suspensions of the computer.", [Sample(self._suspensions)]),
            (
                "suspended_seconds_total",
                "Time for which the computer was suspended, in seconds.",
                [Sample(self._suspended_s)],
            ),
        ):
            yield Family(name, "counter", help, samples)
        yield self._waits.family("job_wait_seconds", "Time from a job's submission to its start.")
        yield self._works.family("job_duration_seconds", "Time from a job's start to its end.")
        yield self._lengths.family("job_audio_seconds", "Length of the recordings transcribed.")
        yield self._watch_works.family(
            "watch_file_duration_seconds",
            "Time from when a file of a watch folder settled to when it was done.",
        )

    def _completed(self, event: TranscriptionCompleted) -> None:
        self._over(event.id, "completed")
        if event.cached:
            self._cached += 1
            return
        self._audio_s += event.total
        self._work_s += event.elapsed
        self._works.observe(event.elapsed)
        self._lengths.observe(event.total)

    def _over(self, job: str, status: str) -> None:
        self._queued_s.pop(job, None)
        self._ended[status] += 1


def _label(name: str, counts: Mapping[str, int]) -> str:
    """Return the name to count a runtime under; limited, since programs may create any number of runtimes."""
    return name if name in counts or len(counts) < MOST_RUNTIMES else OTHER_RUNTIMES
