"""What is counted while the daemon runs, and how it stands, as metrics for Prometheus.

What happens is learnt from the events that clients are told as well. No label has the name of a recording,
and none grows with what is done: they are statuses, runtimes and kinds of processes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from whisperd.daemon.exposition import Family, Histogram, Kind, Sample
from whisperd.rpc.events import (
    Event,
    JobQueued,
    JobStarted,
    RuntimeStatus,
    TranscriptionCancelled,
    TranscriptionCompleted,
    TranscriptionFailed,
)

__all__ = ["Metrics", "Standing"]

WATCH_OUTCOMES: Final = ("done", "retried", "failed")
ENDS: Final = ("completed", "failed", "cancelled")
WAIT_BOUNDS_S: Final = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)
"""From a job that finds its runtime loaded to one at the end of a long queue."""
WORK_BOUNDS_S: Final = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800)
"""From a command that was spoken to a day of recordings."""
WATCH_BOUNDS_S: Final = (1, 3, 10, 30, 60, 300, 900, 3600, 10800, 43200, 86400)
"""From a memo to what has waited for the end of quiet hours."""
AUDIO_BOUNDS_S: Final = (1, 3, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 86400)
MOST_JOBS: Final = 20_000
"""Jobs whose beginning is remembered until they have started."""
MOST_RUNTIMES: Final = 1000
"""Runtimes that are counted by name; those that come later are counted together."""
OTHER_RUNTIMES: Final = "other"


@dataclass(frozen=True)
class Standing:
    """How the daemon stands at the moment."""

    version: str
    started_s: float
    """Unix time at which it was started."""
    clients: int
    jobs: Mapping[str, int]
    """Those that are remembered, by status."""
    waiting_windows: Mapping[str, int]
    """By runtime."""
    runtimes: Mapping[str, str]
    """The status of each, by its name."""
    runtime_memory_bytes: Mapping[str, int]
    """Of each that is loaded."""
    process_memory_bytes: Mapping[str, int]
    """Of all processes of a kind together."""
    watch_folders: Mapping[str, int] = field(default_factory=dict)
    """How many watch folders have each status."""
    is_on_battery: bool | None = None
    """None where that is not known."""
    is_bulk_held: bool = False
    """Whether bulk work waits for mains power."""


class Metrics:
    """Counts what happens. The clock is passed in, in seconds."""

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
        """Something has happened."""
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
        """A file of a watch folder is done, set aside, or will be tried again; and how long ago it had
        settled, where it is done and that is known."""
        self._watched[outcome] += 1
        if settled_for_s is not None:
            self._watch_works.observe(settled_for_s)

    def relieved(self, runtimes: int) -> None:
        """So many runtimes were unloaded because memory was short."""
        self._relieved += runtimes

    def suspended(self, for_s: float) -> None:
        """The computer has slept for so long."""
        self._suspensions += 1
        self._suspended_s += for_s

    def families(self, standing: Standing) -> list[Family]:
        """All that there is to tell."""
        return [*self._of_jobs(), *self._of_runtimes(), *_standing(standing)]

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

    def _of_jobs(self) -> Iterable[Family]:
        ended = [Sample(self._ended[status], {"status": status}) for status in ENDS]
        yield Family(
            "whisperd_jobs_total",
            "counter",
            "Times that a job ended, by how; one that is retried ends again.",
            ended,
        )
        yield _counter(
            "whisperd_jobs_cached_total", "Jobs that a kept transcript has answered.", self._cached
        )
        yield _counter(
            "whisperd_audio_seconds_total", "Audio that was transcribed, in seconds.", self._audio_s
        )
        yield _counter(
            "whisperd_transcribing_seconds_total",
            "Time that jobs were being transcribed, in seconds; audio by this is the real-time factor.",
            self._work_s,
        )
        yield self._waits.family("whisperd_job_wait_seconds", "Time from a job's submission to its start.")
        yield self._works.family("whisperd_job_duration_seconds", "Time from a job's start to its end.")
        yield self._lengths.family("whisperd_job_audio_seconds", "Length of the recordings transcribed.")
        watched = [Sample(self._watched[outcome], {"outcome": outcome}) for outcome in WATCH_OUTCOMES]
        yield Family(
            "whisperd_watch_files_total",
            "counter",
            "Files of watch folders, by what became of them.",
            watched,
        )
        yield self._watch_works.family(
            "whisperd_watch_file_duration_seconds",
            "Time from when a file of a watch folder had settled to when it was done.",
        )

    def _of_runtimes(self) -> Iterable[Family]:
        """And of what befell the computer."""
        yield _by_label(
            "whisperd_runtime_loads_total",
            "counter",
            "Times that a runtime was loaded.",
            "runtime",
            self._loads,
        )
        yield _by_label(
            "whisperd_runtime_failures_total",
            "counter",
            "Times that a runtime could not be loaded.",
            "runtime",
            self._load_failures,
        )
        yield _counter(
            "whisperd_memory_relief_total", "Runtimes unloaded because memory was short.", self._relieved
        )
        yield _counter(
            "whisperd_suspensions_total", "Times that the computer was suspended.", self._suspensions
        )
        yield _counter(
            "whisperd_suspended_seconds_total", "Time for which it was suspended.", self._suspended_s
        )


def _standing(now: Standing) -> Iterable[Family]:
    yield Family(
        "whisperd_build_info", "gauge", "The version that runs.", [Sample(1, {"version": now.version})]
    )
    yield _gauge("whisperd_start_time_seconds", "Unix time at which the daemon was started.", now.started_s)
    yield _gauge("whisperd_clients", "Connections that are open.", now.clients)
    active = {status: now.jobs.get(status, 0) for status in ("queued", "running")}
    yield _by_label("whisperd_jobs_active", "gauge", "Jobs that are not over.", "status", active)
    yield _by_label(
        "whisperd_jobs_remembered", "gauge", "Jobs that `jobs list` shows, by status.", "status", now.jobs
    )
    yield _by_label(
        "whisperd_windows_waiting",
        "gauge",
        "Windows of speech that wait to be computed.",
        "runtime",
        now.waiting_windows,
    )
    yield Family(
        "whisperd_runtime_status",
        "gauge",
        "The status of each runtime: 1 for the one that it has.",
        [Sample(1, {"runtime": name, "status": status}) for name, status in now.runtimes.items()],
    )
    yield _by_label(
        "whisperd_runtime_memory_bytes",
        "gauge",
        "Resident memory of a runtime's worker.",
        "runtime",
        now.runtime_memory_bytes,
    )
    yield _by_label(
        "whisperd_process_resident_memory_bytes",
        "gauge",
        "Resident memory, by kind of process.",
        "process",
        now.process_memory_bytes,
    )
    yield _by_label(
        "whisperd_watch_folders", "gauge", "Watch folders, by status.", "status", now.watch_folders
    )
    on_battery = math.nan if now.is_on_battery is None else float(now.is_on_battery)
    yield _gauge("whisperd_on_battery", "1 on battery, 0 on mains, NaN where that is not known.", on_battery)
    yield _gauge("whisperd_bulk_held", "1 while bulk work waits for mains power.", float(now.is_bulk_held))


def _label(name: str, counts: Mapping[str, int]) -> str:
    """Under which name a runtime is counted: programs may make and delete any number of them."""
    return name if name in counts or len(counts) < MOST_RUNTIMES else OTHER_RUNTIMES


def _counter(name: str, help: str, value: float) -> Family:
    return Family(name, "counter", help, [Sample(value)])


def _gauge(name: str, help: str, value: float) -> Family:
    return Family(name, "gauge", help, [Sample(value)])


def _by_label(name: str, kind: Kind, help: str, label: str, values: Mapping[str, float]) -> Family:
    samples = [Sample(value, {label: key}) for key, value in values.items()]
    return Family(name, kind, help, samples)
