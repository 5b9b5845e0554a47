"""Jobs for the files of watch folders."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from whisperd.daemon.leasing import lease_for_options
from whisperd.jobs.identity import FileStamp
from whisperd.jobs.job import Job, JobInput, Source, Transcript
from whisperd.jobs.journal import Work
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.watch.preset import WatchPreset
from whisperd.watch.work import Note

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = ["WatchJobs"]


class WatchJobs:
    """Takes detached jobs of low priority, unless a watch says otherwise."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def submit(
        self,
        preset: WatchPreset,
        path: str,
        stamp: FileStamp,
        content_hash: str | None,
        again: str | None,
        note: Note,
    ) -> Job:
        """Take a job, and answer once it is in the journal with what `note` writes."""
        jobs = self._service.jobs
        taken: list[str] = []

        def also(connection: sqlite3.Connection) -> None:
            note(connection, taken[0])

        failed = self.find(again) if again is not None else None
        if failed is not None and failed.status == "failed" and failed.path == path:
            taken.append(failed.id)
            job = await self._retry(failed, stamp, also)
        else:
            requested = {"priority": "bulk", **preset.options}
            if preset.runtime is not None:
                requested["runtime"] = preset.runtime
            options, lease, languages = await lease_for_options(self._service, requested, preset.profile)
            try:
                source = Source(JobInput(path=sendable(path)), path, stamp, content_hash)
                job = jobs.submit(source, options, lease, languages, is_detached=True, also=also)
                taken.append(job.id)  # before anything of it is written
            except BaseException:
                lease.release()
                raise
        await jobs.acknowledged(job)
        return job

    def find(self, job: str) -> Job | None:
        """A job that is remembered."""
        try:
            return self._service.jobs.get(job)
        except WhisperdError:
            return None

    def cancel(self, job: str) -> None:
        """Cancel a job, if it is remembered and not over."""
        if (found := self.find(job)) is not None:
            self._service.jobs.cancel(found)

    async def transcript(self, job: Job) -> Transcript | None:
        """The result of a job, as long as it is kept."""
        return await self._service.jobs.transcript(job)

    async def _retry(self, failed: Job, stamp: FileStamp, also: Work) -> Job:
        jobs = self._service.jobs
        lease = await self._service.lease_for(failed)
        try:
            jobs.check_retry(failed)
            return jobs.retry(failed, lease, stamp, also)
        except BaseException:
            lease.release()
            raise
