"""Submit jobs for the files of watch folders: detached, and of low priority unless the watch sets another."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio

from whisperd.jobs.identity import FileStamp
from whisperd.jobs.job import Job, JobInput, Source
from whisperd.jobs.manager import JobManager
from whisperd.jobs.options import JobOptions
from whisperd.jobs.segments import Transcript
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.runtimes import Lease
from whisperd.watch.preset import WatchPreset

__all__ = ["LeaseForOptions", "Note", "WatchJobs"]

Note = Callable[[sqlite3.Connection, str], object]
"""Records a job in the ledger, in the same transaction that writes it to the journal."""

LeaseForOptions = Callable[
    [dict[str, Any], str | None], Awaitable[tuple[JobOptions, Lease, Sequence[str] | None]]
]
"""Maps job options and a profile name to the complete options, a lease on the runtime that they name, and the
languages of its model if known."""


class WatchJobs:
    """The daemon's jobs, as watches use them."""

    def __init__(
        self,
        jobs: JobManager,
        lease_for_options: LeaseForOptions,
        lease_for: Callable[[Job], Awaitable[Lease]],
    ) -> None:
        """`lease_for` returns a lease on the runtime of an earlier job."""
        self._jobs = jobs
        self._lease_for_options = lease_for_options
        self._lease_for = lease_for

    async def submit(
        self,
        preset: WatchPreset,
        path: str,
        stamp: FileStamp,
        content_hash: str | None,
        again: str | None,
        note: Note,
    ) -> Job:
        """Submit a job for a file; return once it is in the journal, together with what `note` writes.

        `again` is a failed job for the same bytes, whose finished windows are reused.
        """

        def also(connection: sqlite3.Connection) -> None:
            note(connection, job.id)  # the id is known before anything is written

        failed = self.find(again) if again is not None else None
        if failed is not None and failed.status == "failed" and failed.path == path:
            lease = await self._lease_for(failed)
            with lease.released_on_error():
                job = self._jobs.retry(failed.id, lease, stamp, also)
        else:
            requested = {"priority": "bulk", **preset.options}
            if preset.runtime is not None:
                requested["runtime"] = preset.runtime
            options, lease, languages = await self._lease_for_options(requested, preset.profile)
            source = Source(JobInput(path=sendable(path)), path, stamp, content_hash)
            with lease.released_on_error():
                job = self._jobs.submit(source, options, lease, languages, is_detached=True, also=also)
        # Even if the watch is removed meanwhile: the job, then absent from the ledger, is cancelled for that.
        with anyio.CancelScope(shield=True):
            await self._jobs.acknowledged(job)
        return job

    def find(self, job: str) -> Job | None:
        """Return a remembered job, or None."""
        try:
            return self._jobs.get(job)
        except WhisperdError:
            return None

    def cancel(self, job: str) -> None:
        """Cancel a job if it is remembered and not over."""
        if (found := self.find(job)) is not None:
            self._jobs.cancel(found)

    async def transcript(self, job: Job) -> Transcript | None:
        """Return the transcript of a job while it is stored."""
        return await self._jobs.transcript(job)
