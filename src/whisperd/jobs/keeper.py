"""What is kept of jobs while they run and when they are over, and what is answered from it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from whisperd.audio import Found
from whisperd.clock import rfc3339_ago
from whisperd.jobs.batching import NO_PAST, Past
from whisperd.jobs.identity import (
    FileStamp,
    check_path,
    content_hash,
    content_key,
    inode_of,
    input_changed,
    input_changed_meanwhile,
)
from whisperd.jobs.job import Job
from whisperd.jobs.journal import (
    FinishedWindow,
    JobJournal,
    drop_progress,
    put_record,
    record_of,
)
from whisperd.jobs.recipe import Recipe
from whisperd.jobs.segments import Transcript
from whisperd.jobs.transcripts import KeptTranscript, TranscriptStore, insert_transcript, transcript_number
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import Lease
from whisperd.settings import JobSettings
from whisperd.store import Ticket, Writing

__all__ = ["JobKeeper", "SavedProgress"]

log = logging.getLogger(__name__)

RecipeOf = Callable[[Job, Lease], Awaitable[Recipe]]
"""What makes the text of a job. Raises `WhisperdError` where that is not known before its model is loaded."""


class SavedProgress(NamedTuple):
    """What an earlier run of a job has done."""

    windows: Mapping[int, FinishedWindow] = MappingProxyType({})
    """Those that were computed, by their index."""
    found: tuple[Found, ...] = ()
    """How far its decoder has listened."""
    past: Past = NO_PAST


class JobKeeper:
    """Keeps what `JobManager` does, in the data base.

    Nothing here makes a job fail but that its recording is another one by now, or cannot be read. What cannot
    be kept or looked up is logged, and the job goes on as if nothing had been kept.
    """

    def __init__(
        self,
        journal: JobJournal,
        transcripts: TranscriptStore,
        settings: Callable[[], JobSettings],
        recipe_of: RecipeOf,
    ) -> None:
        self._journal = journal
        self.transcripts = transcripts
        self._settings = settings
        self._recipe_of = recipe_of
        self._being_kept: Ticket | None = None
        """What was handed over last that holds a transcript."""

    def save(self, job: Job, also: Writing | None = None) -> Ticket:
        """A job was taken, or goes on; `also` is done in the same transaction, or neither is."""
        return self._journal.put(job, also)

    async def check_input(self, job: Job) -> None:
        """Note what the file is as the work on it begins.

        Raises `job.input_changed` if it was another, and as `check_path`.
        """
        stamp = await check_path(job.path)
        if job.is_resumed and job.stamp is not None:
            if not await _is_same(job, stamp):
                raise input_changed(job.input.path or "The recording")
        elif stamp != job.stamp:  # else its hash holds, if it came with one
            job.content_hash = None
        job.stamp = stamp

    async def find_transcript(self, job: Job, lease: Lease) -> Transcript | None:
        """The transcript of the same audio, made by the same recipe, if there is one and it may be used."""
        if not (self._settings().keep_transcripts and job.options.cache and job.stamp is not None):
            return None
        await self._all_kept()
        try:
            if not await self.transcripts.has_size(job.stamp.size_bytes):
                return None  # so nothing is read in vain
            recipe = (await self._recipe_of(job, lease)).digest
            await self.hash_input(job)
            if job.content_hash is None:
                return None
            key = content_key(job.content_hash, recipe)
            transcript = await self.transcripts.find(key, job.input.path)
        except WhisperdError as error:
            log.info("job %s: cannot look up a stored transcript: %s", job.id, error.code)
            return None
        if transcript is None:
            return None
        job.answered_by = key
        return msgspec.structs.replace(transcript, runtime=job.runtime)

    async def load_progress(self, job: Job, lease: Lease) -> SavedProgress:
        """What is done of a job and can be used on the runtime that is leased, which is loaded."""
        try:
            recipe = (await self._recipe_of(job, lease)).digest
        except WhisperdError as error:
            log.info("job %s: its progress will not be saved: %s", job.id, error.code)
            recipe = None
        is_sound = recipe is not None and recipe == job.recipe
        if job.recipe is not None and not is_sound:
            self._journal.drop_progress(job.id)
        progress = await self._read_progress(job) if is_sound and job.is_resumed else SavedProgress()
        finished = len(progress.windows)
        past = Past(job.interruptions, max(0, finished - job.finished_at_begin))
        job.recipe, job.is_at_work, job.finished_at_begin = recipe, True, finished
        self._journal.put(job)
        return progress._replace(past=past)

    async def _read_progress(self, job: Job) -> SavedProgress:
        try:
            return SavedProgress(await self._journal.windows(job.id), await self._journal.found(job.id))
        except WhisperdError as error:
            log.warning("job %s restarts from the beginning: %s", job.id, error.code)
            return SavedProgress()

    def forget_progress(self, job: Job) -> None:
        """What was done of a job does not fit its recording."""
        log.warning(
            "job %s restarts from the beginning: its recording is cut differently than before", job.id
        )
        self._journal.drop_progress(job.id)

    def save_windows(self, job: Job, windows: Sequence[FinishedWindow]) -> None:
        """Some windows of a job were computed."""
        if self._settings().keep_transcripts and job.recipe is not None:
            self._journal.add_windows(job.id, windows)

    def save_found(self, job: Job, found: Found) -> None:
        """The decoder of a job is so far."""
        if self._settings().keep_transcripts and job.recipe is not None:
            self._journal.add_found(job.id, found)

    async def hash_input(self, job: Job) -> None:
        """Find the hash of a job's audio, if it is not known; it stays unknown where that cannot be."""
        is_wanted = job.is_detached or self._settings().keep_transcripts
        if not is_wanted or job.content_hash is not None or job.stamp is None:
            return
        try:
            hashed = await content_hash(job.path)
        except WhisperdError as error:
            log.info("job %s: cannot hash its input: %s", job.id, error.code)
            return
        if hashed is not None and hashed[1] == job.stamp:
            job.content_hash = hashed[0]
            self._journal.put(job)

    async def check_unchanged(self, job: Job) -> None:
        """Once all was read: that is not what was hashed if it was written to meanwhile."""
        try:
            stamp = await check_path(job.path)
            is_same = await _is_same(job, stamp)
            if is_same:
                job.stamp, job.inode = stamp, await inode_of(job.path)
                return
            _warn_of_change(job, is_certain=is_same is not None)
        except WhisperdError:
            pass  # it is gone, which does no harm to what was read
        job.content_hash = None

    async def check_complete(self, job: Job) -> None:
        """At the end of the work: what was written behind the end that was read is missing."""
        with suppress(WhisperdError):
            size_bytes = (await check_path(job.path)).size_bytes
            is_longer = job.stamp is not None and size_bytes > job.stamp.size_bytes
            # Another file that was put in its place has nothing to do with what was read.
            if is_longer and not job.warnings and job.inode in (None, await inode_of(job.path)):
                _warn_of_change(job)

    def save_suspended(self, job: Job) -> Ticket:
        """A job goes on in the next daemon, and nothing went wrong in this one."""
        job.is_at_work = False
        return self._journal.put(job)

    def save_end(self, job: Job) -> Ticket:
        """A job is over."""
        keeps = self._settings().keep_transcripts
        kept = self._kept_transcript(job) if keeps and not job.is_cached else None
        job.is_at_work = False
        record = record_of(job)
        drops_progress = not keeps or job.status == "completed"

        def write(connection: sqlite3.Connection) -> None:
            number = (
                insert_transcript(connection, kept)
                if kept is not None
                # It may have been replaced by a newer one meanwhile, or purged.
                else transcript_number(connection, job.answered_by)
            )
            put_record(connection, record, number)
            if drops_progress:
                drop_progress(connection, job.id)

        ticket = self._journal.saver.hand_over(write)
        if kept is not None:
            self._being_kept = ticket
        return ticket

    def start_over(self, job: Job, stamp: FileStamp) -> None:
        """Nothing that is finished of a job is of use: its file is another one now."""
        job.stamp, job.content_hash, job.recipe = stamp, None, None
        self._journal.drop_progress(job.id)

    def forget(self, jobs: Sequence[str]) -> Ticket:
        """Jobs are not to be remembered any more."""
        return self._journal.forget(jobs)

    async def purge(self, jobs: Sequence[str], older_than_s: float | None, *, all_of_them: bool) -> int:
        """Erase the transcripts of jobs that are forgotten next, or all (that are older); returns how many.

        Nothing of them is left in the files of the data base once `erase` was called.
        """
        await self._journal.saver.flush()
        count = await self.transcripts.forget_of_jobs(jobs)
        if all_of_them:
            moment = None if older_than_s is None else rfc3339_ago(older_than_s)
            count += await self.transcripts.forget_before(moment)
        return count

    async def erase(self) -> None:
        """Leave nothing in the files of the data base of what was forgotten."""
        await self._journal.saver.flush()
        await self._journal.saver.database.erase()

    async def retire(self) -> None:
        """Forget what is kept for longer than the settings say."""
        settings = self._settings()
        moment = rfc3339_ago(settings.keep_transcripts_days * 86_400) if settings.keep_transcripts else None
        count = await self.transcripts.forget_before(moment)
        if not settings.keep_transcripts:
            count += await self._journal.drop_all_progress()
            if count:
                await self.erase()
        if count:
            log.info("deleted %d stored transcripts", count)

    async def _all_kept(self) -> None:
        """Wait until each transcript that was told of can be found: it is told a moment before."""
        if self._being_kept is not None:
            with suppress(WhisperdError):
                await self._being_kept.saved()

    def _kept_transcript(self, job: Job) -> KeptTranscript | None:
        if job.transcript is None:
            return None
        has_key = job.content_hash is not None and job.recipe is not None
        return KeptTranscript(
            transcript=job.transcript,
            key=content_key(job.content_hash or "", job.recipe or "") if has_key else None,
            size_bytes=job.stamp.size_bytes if job.stamp else None,
            path=job.input.path,
            content_hash=job.content_hash,
        )


def _warn_of_change(job: Job, *, is_certain: bool = True) -> None:
    warning = input_changed_meanwhile(job.input.path or "The recording", is_certain=is_certain)
    job.warnings = (warning.to_wire(),)
    log.warning("job %s: its recording changed while it was being transcribed", job.id)


async def _is_same(job: Job, stamp: FileStamp) -> bool | None:
    """Whether a job's file, which has this stamp now, is what it was: another time alone says nothing. None
    where that is not known.

    Raises `WhisperdError`.
    """
    if job.stamp is None or stamp == job.stamp:
        return stamp == job.stamp
    if stamp.size_bytes != job.stamp.size_bytes:
        return False
    hashed = await content_hash(job.path) if job.content_hash is not None else None
    return None if hashed is None else hashed[0] == job.content_hash
