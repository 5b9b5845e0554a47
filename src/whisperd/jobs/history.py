"""The jobs that are over, for as long as they are remembered. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from whisperd.jobs.job import Job, JobStatus

__all__ = ["JobHistory"]


class JobHistory:
    """Those of each status by themselves: who cancels a thousand jobs loses none that is completed."""

    def __init__(self) -> None:
        self._by_status: dict[JobStatus, dict[str, Job]] = {}

    def __iter__(self) -> Iterator[Job]:
        """Those of each status in the order in which they have ended."""
        return (job for jobs in self._by_status.values() for job in jobs.values())

    def add(self, job: Job) -> None:
        """A job is over."""
        self._by_status.setdefault(job.status, {})[job.id] = job

    def get(self, job_id: str) -> Job | None:
        """The job, if it is remembered."""
        return next((jobs[job_id] for jobs in self._by_status.values() if job_id in jobs), None)

    def remove(self, job_id: str) -> Job | None:
        """Forget a job, and return it if it was remembered."""
        return next(filter(None, (jobs.pop(job_id, None) for jobs in self._by_status.values())), None)

    def beyond(self, keep: int) -> list[str]:
        """The ids of all but the last `keep` of each status."""
        return [
            job_id for jobs in self._by_status.values() for job_id in islice(jobs, max(0, len(jobs) - keep))
        ]

    def before(self, moment: str | None) -> list[str]:
        """The ids of those that were over before a moment (RFC 3339; None: now)."""
        return [job.id for job in self if moment is None or (job.ended or "") < moment]
