"""Process one file of a watch: hash it, submit its job, write its texts, and run the follow-up."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

import anyio
import msgspec
from anyio.to_thread import run_sync

from whisperd.audio import not_readable
from whisperd.jobs.identity import FileStamp
from whisperd.jobs.job import Job
from whisperd.settings import WatchSettings
from whisperd.threads import run_abandonable
from whisperd.watch import scanner
from whisperd.watch.errors import to_whisperd_error
from whisperd.watch.failure_handler import FailureHandler, OnOutcome
from whisperd.watch.file_table import put_file
from whisperd.watch.folder import WatchFolder
from whisperd.watch.followup import FollowUp, needs_no_followup
from whisperd.watch.jobs import WatchJobs
from whisperd.watch.ledger import FileRow, FileStatus, Identity, Seen
from whisperd.watch.preset import WatchPreset
from whisperd.watch.store import WatchStore
from whisperd.watch.texts import Texts

__all__ = ["FileWork"]

HASH_TIMEOUT_S: Final = 600.0
"""How long to try to hash a file. One that takes longer has no hash and is recognised by its times."""


class FileWork:
    """Processes the files of watches."""

    def __init__(
        self,
        store: WatchStore,
        jobs: WatchJobs,
        settings: Callable[[], WatchSettings],
        on_outcome: OnOutcome,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._on_outcome = on_outcome
        self._texts = Texts(store)
        self._followup = FollowUp(store, settings)
        self._failure_handler = FailureHandler(store, self._texts, settings, on_outcome)
        self._awaiting_followup: set[int] = set()
        """Files whose follow-up could not be finished: they are missing, or cannot be moved now."""
        self._locks: WeakValueDictionary[int, anyio.Lock] = WeakValueDictionary()

    async def take(self, folder: WatchFolder, seen: Seen) -> None:
        """Process a file that has settled, from beginning to end."""
        number: int | None = None
        try:
            row = await self._store.files.at(folder.preset.id, seen.path)
            if row is not None and row.identity == seen.identity and self.awaits_followup(row):
                await self._follow_up(folder, row)
                return
            taken = await self._submit(folder, seen)
            if taken is None:
                folder.pending.settled_s.pop(seen.path, None)
            else:
                number, job = taken
                await self._finish(folder, number, job, seen.identity)
        except Exception as error:
            await self._failure_handler.failed(
                folder, seen, number, to_whisperd_error(folder.preset.id, error)
            )

    async def resume(self, folder: WatchFolder, row: FileRow) -> None:
        """Resume a file that was in progress when the last daemon ended."""
        try:
            await self._texts.remove_leftovers(folder.preset, row)
            if row.status == "written":
                if await _is_replaced(folder, row):
                    await self._followup.give_up(folder.preset, row)
                else:
                    await self._follow_up(folder, row)
                return
            job = self._jobs.find(row.job) if row.job is not None else None
            if job is None:
                await self._mark_lost(folder, row)
            else:
                await self._finish(folder, row.id, job, row.identity)
        except Exception as error:
            seen = Seen(row.path, row.identity)
            await self._failure_handler.failed(
                folder, seen, row.id, to_whisperd_error(folder.preset.id, error)
            )

    async def rename(self, folder: WatchFolder, row: FileRow, seen: Seen) -> None:
        """Rename the outputs of a renamed file with it; outputs that the user has changed stay.

        The ledger is updated last: if the daemon dies before, the next one repeats the rename and finds it
        done.
        """
        async with self._lock(row.id):
            have_followed = await self._texts.follow(folder.preset, row, seen.path)
            await self._store.files.rename(row.id, seen.path, seen.identity, folder.preset.id)
            if (row.status == "done" and not have_followed) or (row.status == "failed" and row.gone):
                await self._mark_lost(folder, msgspec.structs.replace(row, path=seen.path))

    async def forget(self, preset: WatchPreset, row: FileRow) -> None:
        """Handle a missing file: delete its error file.

        If it is missing for the second time, also cancel its job and give up its follow-up. The first time,
        it may only be on its way to another name.
        """
        async with self._lock(row.id):
            if row.status not in ("done", "written"):
                await self._texts.remove_error(row)
            now = await self._store.files.get(row.id) if row.gone is not None else None
            if now is not None and self.awaits_followup(now):
                self._awaiting_followup.discard(now.id)
                await self._followup.give_up(preset, now)
            if now is None or now.job is None or now.status != "working":
                return
            await self._store.files.update(row.id, status="lost", job=None)  # cancelling is then no failure
        self._jobs.cancel(now.job)

    async def has_texts(self, folder: WatchFolder, row: FileRow) -> bool:
        """Whether files exist at all paths where texts of a file were written."""
        paths = [output.path for output in await self._store.outputs.of(row.id)]
        return await folder.in_thread(lambda: all(map(os.path.lexists, paths)))

    def awaits_followup(self, row: FileRow) -> bool:
        """Whether the follow-up of a file must be run again."""
        return row.status == "written" and row.id in self._awaiting_followup

    def _lock(self, number: int) -> anyio.Lock:
        """Return the lock that is held while outputs of a file are written or renamed."""
        return self._locks.setdefault(number, anyio.Lock())

    async def _submit(self, folder: WatchFolder, seen: Seen) -> tuple[int, Job] | None:
        path, watch = folder.full(seen.path), folder.preset.id
        async with folder.reading:
            is_settled, content_hash = await _read(path, seen)
        if not is_settled:
            folder.postpone(seen)
            return None
        ((_, known, others),) = await self._store.files.look_up(watch, [seen])
        if (await run_sync(scanner.recognised, folder.preset.path, seen, known, others)).verdict == "alias":
            return None
        # A file that took too long to hash may contain anything.
        is_same = known is not None and content_hash is not None and content_hash == known.hash
        same = known if is_same else None
        # A file in progress was renamed and then touched: its result is still valid.
        is_done = same is not None and same.status in ("done", "written", "working")
        if same is not None and is_done and (same.gone is None or await self.has_texts(folder, same)):
            await self._store.files.update(same.id, identity=seen.identity, gone=None)
            if self.awaits_followup(same):
                folder.recheck(seen.path)
            return None
        if known is not None and same is None:
            async with self._lock(known.id):
                await self._texts.disown(known.id)
        attempts = same.attempts if same is not None else 0
        numbers: list[int] = []

        def note(connection: sqlite3.Connection, job: str) -> None:
            numbers[:] = [put_file(connection, watch, seen, content_hash, job=job, attempts=attempts)]

        stamp = _stamp_of(seen.identity)
        again = same.job if same is not None else None
        job = await self._jobs.submit(folder.preset, path, stamp, content_hash, again, note)
        if known is not None and known.job not in (None, job.id):
            self._jobs.cancel(known.job)  # the file was renamed and then edited
        return numbers[0], job

    async def _finish(self, folder: WatchFolder, number: int, job: Job, identity: Identity) -> None:
        """Finish a file with its job; `identity` is that of the file when the job was submitted."""
        self._awaiting_followup.discard(number)  # its content has changed since
        folder.backoff.not_moved.pop(number, None)
        await job.over.wait()
        if job.is_suspended:
            return  # the next daemon resumes it
        is_last_step = needs_no_followup(folder.preset)
        async with self._lock(number):
            row = await self._write_result(
                folder, number, job, identity, "done" if is_last_step else "written"
            )
        if row is None:
            return
        folder.note_success(row.path)
        if is_last_step:
            self._on_outcome(folder, row.path, "done")
        else:
            await self._follow_up(folder, row)

    async def _write_result(
        self, folder: WatchFolder, number: int, job: Job, identity: Identity, status: FileStatus
    ) -> FileRow | None:
        """Write the result of a job; return its file, or None if the file now needs other work."""
        row = await self._store.files.get(number)
        if row is None or row.job != job.id:
            return None  # its watch was removed, or another job now processes its content
        has_changed = job.has_warning("job.input_changed")
        if has_changed or job.stamp not in (None, _stamp_of(identity), _stamp_of(row.identity)):
            pass  # it was renamed, and its job may have read another file under its old name
        elif job.error is not None:
            if await run_sync(scanner.is_same, folder.preset.path, row.path, row.identity):
                raise job.error.copy()
        elif (transcript := await self._jobs.transcript(job)) is not None:
            how = f"Transcribed {transcript.duration:.1f} s"
            if job.is_cached:
                how = "Reused the stored transcript"
            if job.has_warning("audio.corrupt"):
                how += " of a recording that is partly damaged"
            if await self._texts.write(folder.preset, row, transcript, status, how):
                return row
        await self._mark_lost(folder, row)  # it was renamed, edited or deleted meanwhile
        return None

    async def _follow_up(self, folder: WatchFolder, row: FileRow) -> None:
        self._awaiting_followup.discard(row.id)
        result = await self._followup.run(folder, row)
        if result == "over":
            folder.backoff.not_moved.pop(row.id, None)
            self._on_outcome(folder, row.path, "done")
            return
        self._awaiting_followup.add(row.id)  # the next scan finds it
        if result == "missing":
            async with self._lock(row.id):  # it may be in the middle of a rename
                now = await self._store.files.get(row.id)
            if now is not None and now.gone is None:
                folder.recheck(now.path)
            elif now is not None:  # it was noted as missing before, so only a scan looks for it
                folder.request_scan()

    async def _mark_lost(self, folder: WatchFolder, row: FileRow) -> None:
        """Have a scan find out what the file needs now."""
        await self._store.files.update(row.id, status="lost")
        folder.recheck(row.path)


def _stamp_of(identity: Identity) -> FileStamp:
    return FileStamp(size_bytes=identity.size_bytes, modified_ns=identity.modified_ns)


async def _is_replaced(folder: WatchFolder, row: FileRow) -> bool:
    """Whether a file was missing, or about to be removed by us, and another one has its name now.

    False on a disk that does not respond.
    """
    if row.gone is None:
        return False
    try:
        seen = await folder.in_thread(lambda: scanner.look_at(folder.preset.path, row.path))
    except TimeoutError:
        return False
    return seen is not None and not row.identity.is_unchanged(seen.identity)


async def _read(path: str, seen: Seen) -> scanner.Inspected:
    given_up = threading.Event()
    try:
        return await run_abandonable(
            path, lambda: scanner.hash_unchanged(path, seen.identity, given_up), HASH_TIMEOUT_S
        )
    except TimeoutError:
        return True, None
    except OSError as error:
        raise not_readable(path, error) from error
    finally:
        given_up.set()
