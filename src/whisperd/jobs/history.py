"""Jobs that ended and are still remembered. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from whisperd.jobs.job import Job, JobStatus

__all__ = ["JobHistory"]


class JobHistory:
    """Ended jobs grouped by status, so that cancelling a thousand jobs never evicts a completed one."""

    def __init__(self) -> None:
        self._by_status: dict[JobStatus, dict[str, Job]] = {}

    def __iter__(self) -> Iterator[Job]:
        """Iterate over the jobs, status by status, each in the order in which they ended."""
        return (job for jobs in self._by_status.values() for job in jobs.values())

    def add(self, job: Job) -> None:
        """Add a job that ended."""
        self._by_status.setdefault(job.status, {})[job.id] = job

    def get(self, job_id: str) -> Job | None:
        """Return a job, or None if it is not remembered."""
        return next((jobs[job_id] for jobs in self._by_status.values() if job_id in jobs), None)

    def remove(self, job_id: str) -> Job | None:
        """Forget a job; returns it, or None if it was not remembered."""
        return next(filter(None, (jobs.pop(job_id, None) for jobs in self._by_status.values())), None)

    def beyond(self, keep: int) -> list[str]:
        """Return the ids of all but the last `keep` jobs of each status."""
        return [
            job_id for jobs in self._by_status.values() for job_id in islice(jobs, max(0, len(jobs) - keep))
        ]

    def before(self, moment: str | None) -> list[str]:
        """Return the ids of jobs that ended before a moment (RFC 3339; None: now)."""
        return [job.id for job in self if moment is None or (job.ended or "") < moment]
