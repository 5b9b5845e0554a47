"""Persistence of jobs, running and ended, and reuse of what is stored."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, NamedTuple

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
from whisperd.jobs.transcripts import StoredTranscript, TranscriptStore, insert_transcript, transcript_number
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import Lease
from whisperd.settings import JobSettings
from whisperd.store import Ticket, Writing

__all__ = ["JobKeeper", "SavedProgress"]

log = logging.getLogger(__name__)

LONG_DAYS: Final = 7.0
"""Transcripts stored for so long are deleted by whole days, because each deletion rewrites the word index."""

RecipeOf = Callable[[Job, Lease], Awaitable[Recipe]]
"""Returns the recipe of a job's text. Raises `WhisperdError` if it is unknown until the model is loaded."""


class SavedProgress(NamedTuple):
    """The results of earlier runs of a job."""

    windows: Mapping[int, FinishedWindow] = MappingProxyType({})
    """Computed windows by index."""
    found: tuple[Found, ...] = ()
    """What its decoder found, and how far it got."""
    past: Past = NO_PAST


class JobKeeper:
    """Saves the work of `JobManager` in the database.

    Its methods fail a job only if the recording has changed or cannot be read. Other failures to save or to
    look up are logged, and the job continues as if nothing had been stored.
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
        self._last_transcript: Ticket | None = None
        """The last write that includes a transcript."""

    def save(self, job: Job, also: Writing | None) -> Ticket:
        """Save a new or resumed job; `also` runs in the same transaction."""
        return self._journal.put(job, also)

    async def check_input(self, job: Job) -> None:
        """Record the stamp of the file as the run begins.

        Raises `job.input_changed` if a resumed job's file has changed, and the errors of `check_path`.
        """
        stamp = await check_path(job.path)
        if job.is_resumed and job.stamp is not None:
            if not await _is_same(job, stamp):
                raise input_changed(job.input.path or "The recording")
        elif stamp != job.stamp:  # else the hash stays valid, if there is one
            job.content_hash = None
        job.stamp = stamp

    async def find_transcript(self, job: Job, lease: Lease) -> Transcript | None:
        """Return a stored transcript of the same audio and recipe, if one exists and may be used."""
        if not (self._settings().keep_transcripts and job.options.cache and job.stamp is not None):
            return None
        await self._wait_for_transcripts()
        try:
            if not await self.transcripts.has_size(job.stamp.size_bytes):
                return None  # then hashing the file would be useless
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
        """Return what earlier runs did that the loaded runtime can reuse, and mark the job as at work."""
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
        """Delete the progress of a job, because it does not fit the recording."""
        log.warning(
            "job %s restarts from the beginning: its recording is cut differently than before", job.id
        )
        self._journal.drop_progress(job.id)

    def save_windows(self, job: Job, windows: Sequence[FinishedWindow]) -> None:
        """Save finished windows."""
        if self._settings().keep_transcripts and job.recipe is not None:
            self._journal.add_windows(job.id, windows)

    def save_found(self, job: Job, found: Found) -> None:
        """Save what the decoder has found so far."""
        if self._settings().keep_transcripts and job.recipe is not None:
            self._journal.add_found(job.id, found)

    async def hash_input(self, job: Job) -> None:
        """Hash the audio of a job if the hash is wanted and unknown; it stays unknown if that fails."""
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
        """Check, once the file was read to the end, that it did not change; else drop its hash and warn."""
        try:
            stamp = await check_path(job.path)
            is_same = await _is_same(job, stamp)
            if is_same:
                job.stamp, job.inode = stamp, await inode_of(job.path)
                return
            _warn_of_change(job, is_certain=is_same is not None)
        except WhisperdError:
            pass  # a deleted file does not affect what was read
        job.content_hash = None

    async def check_complete(self, job: Job) -> None:
        """Warn, at the end of the run, if audio was appended to the file after its end was read."""
        with suppress(WhisperdError):
            size_bytes = (await check_path(job.path)).size_bytes
            is_longer = job.stamp is not None and size_bytes > job.stamp.size_bytes
            # A different file in its place does not affect what was read.
            if (
                is_longer
                and not job.has_warning("job.input_changed")
                and job.inode in (None, await inode_of(job.path))
            ):
                _warn_of_change(job)

    def save_suspended(self, job: Job) -> Ticket:
        """Save that a job resumes in the next daemon and was not interrupted."""
        job.is_at_work = False
        return self._journal.put(job)

    def save_end(self, job: Job) -> Ticket:
        """Save the end of a job, and its transcript."""
        keeps = self._settings().keep_transcripts
        kept = self._transcript_to_store(job) if keeps and not job.is_cached else None
        job.is_at_work = False
        record = record_of(job)
        drops_progress = not keeps or job.status == "completed"

        def write(connection: sqlite3.Connection) -> None:
            number = (
                insert_transcript(connection, kept)
                if kept is not None
                # The transcript may meanwhile have been replaced by a newer one, or purged.
                else transcript_number(connection, job.answered_by)
            )
            put_record(connection, record, number)
            if drops_progress:
                drop_progress(connection, job.id)

        ticket = self._journal.saver.hand_over(write)
        if kept is not None:
            self._last_transcript = ticket
        return ticket

    def start_over(self, job: Job, stamp: FileStamp) -> None:
        """Discard the progress of a job, because its file is a different one now."""
        job.stamp, job.content_hash, job.recipe = stamp, None, None
        self._journal.drop_progress(job.id)

    def forget(self, jobs: Sequence[str]) -> Ticket:
        """Delete jobs from the journal."""
        return self._journal.forget(jobs)

    async def purge(self, jobs: Sequence[str], older_than_s: float | None, *, all_of_them: bool) -> int:
        """Delete the transcripts of these jobs, which are forgotten next, or all (older than a limit);
        returns how many.

        After `erase`, no trace of them is left in the files of the database.
        """
        await self._journal.saver.flush()
        count = await self.transcripts.forget_of_jobs(jobs)
        if all_of_them:
            moment = None if older_than_s is None else rfc3339_ago(older_than_s)
            count += await self.transcripts.forget_before(moment)
        return count

    async def erase(self) -> None:
        """Wipe everything that was deleted from the files of the database."""
        await self._journal.saver.flush()
        await self._journal.saver.database.erase()

    async def retire(self, clock_lead_s: float = 0.0) -> None:
        """Delete what is older than the settings allow. `clock_lead_s` is how far the clock may be ahead."""
        settings = self._settings()
        keep_s = settings.keep_transcripts_days * 86_400 + clock_lead_s
        moment = rfc3339_ago(keep_s) if settings.keep_transcripts else None
        if moment is not None and settings.keep_transcripts_days >= LONG_DAYS:
            moment = moment.partition("T")[0]
        count = await self.transcripts.forget_before(moment)
        if not settings.keep_transcripts:
            count += await self._journal.drop_all_progress()
            if count:
                await self.erase()
        if count:
            log.info("deleted %d stored transcripts", count)

    async def _wait_for_transcripts(self) -> None:
        """Wait until every reported transcript can be found: jobs report completion just before the save."""
        if self._last_transcript is not None:
            with suppress(WhisperdError):
                await self._last_transcript.saved()

    def _transcript_to_store(self, job: Job) -> StoredTranscript | None:
        if job.transcript is None:
            return None
        has_key = job.content_hash is not None and job.recipe is not None
        return StoredTranscript(
            transcript=job.transcript,
            key=content_key(job.content_hash or "", job.recipe or "") if has_key else None,
            size_bytes=job.stamp.size_bytes if job.stamp else None,
            path=job.input.path,
            content_hash=job.content_hash,
        )


def _warn_of_change(job: Job, *, is_certain: bool = True) -> None:
    job.warn(input_changed_meanwhile(job.input.path or "The recording", is_certain=is_certain))
    log.warning("job %s: its recording changed while it was being transcribed", job.id)


async def _is_same(job: Job, stamp: FileStamp) -> bool | None:
    """Whether a job's file, which now has this stamp, is unchanged; None if that is unknown. A new
    modification time alone proves nothing.

    Raises `WhisperdError`.
    """
    if job.stamp is None or stamp == job.stamp:
        return stamp == job.stamp
    if stamp.size_bytes != job.stamp.size_bytes:
        return False
    hashed = await content_hash(job.path) if job.content_hash is not None else None
    return None if hashed is None else hashed[0] == job.content_hash
