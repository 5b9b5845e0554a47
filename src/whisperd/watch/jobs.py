"""Jobs for the files of watch folders: detached, and of low priority unless a watch says otherwise."""

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
"""Notes a job in the ledger, in the transaction that puts it into the journal."""

LeaseForOptions = Callable[
    [dict[str, Any], str | None], Awaitable[tuple[JobOptions, Lease, Sequence[str] | None]]
]
"""From job options and the name of a profile: all options, a lease on the runtime that they name, and the
languages of its model as far as they are known."""


class WatchJobs:
    """The jobs of a daemon, as watches use them."""

    def __init__(
        self,
        jobs: JobManager,
        lease_for_options: LeaseForOptions,
        lease_for: Callable[[Job], Awaitable[Lease]],
    ) -> None:
        """`lease_for` gives a lease on the runtime of a job that was done before."""
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
        """Take a job for a file, and answer once it is in the journal together with what `note` writes.

        `again` is a job that has failed with the same bytes: what it has finished is used.
        """

        def also(connection: sqlite3.Connection) -> None:
            note(connection, job.id)  # which is known before anything of it is written

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
        # Also where its watch is removed meanwhile: then it is not in the ledger, and is cancelled for that.
        with anyio.CancelScope(shield=True):
            await self._jobs.acknowledged(job)
        return job

    def find(self, job: str) -> Job | None:
        """A job that is remembered."""
        try:
            return self._jobs.get(job)
        except WhisperdError:
            return None

    def cancel(self, job: str) -> None:
        """Cancel a job, if it is remembered and not over."""
        if (found := self.find(job)) is not None:
            self._jobs.cancel(found)

    async def transcript(self, job: Job) -> Transcript | None:
        """The result of a job, as long as it is kept."""
        return await self._jobs.transcript(job)
