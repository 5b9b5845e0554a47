"""What is done for one file of a watch: read, submitted, its texts written, and what comes after."""

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
from whisperd.watch.after import After, is_all_done
from whisperd.watch.errors import told
from whisperd.watch.file_table import put_file
from whisperd.watch.folder import WatchFolder
from whisperd.watch.jobs import WatchJobs
from whisperd.watch.ledger import FileRow, FileStatus, Seen
from whisperd.watch.preset import WatchPreset
from whisperd.watch.store import WatchStore
from whisperd.watch.texts import Texts
from whisperd.watch.trouble import OnOutcome, Trouble

__all__ = ["FileWork"]

HASH_TIMEOUT_S: Final = 600.0
"""How long a file is read for its hash. One that is not read by then has none: it is known by its times."""


class FileWork:
    """Does what is to be done for files."""

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
        self._after = After(store, settings)
        self._trouble = Trouble(store, self._texts, settings, on_outcome)
        self._waiting: set[int] = set()
        """Files that were not there when what comes after their texts was to be done: a disk may be away."""
        self._locks: WeakValueDictionary[int, anyio.Lock] = WeakValueDictionary()

    async def take(self, folder: WatchFolder, seen: Seen) -> None:
        """Do all that is to be done for a file that has settled."""
        number: int | None = None
        try:
            row = await self._store.files.at(folder.preset.id, seen.path)
            if row is not None and row.identity == seen.identity and self.waits(row):
                await self._conclude(folder, row)
                return
            taken = await self._submit(folder, seen)
            if taken is None:
                folder.pending.settled_s.pop(seen.path, None)
            else:
                number, job = taken
                await self._finish(folder, number, job)
        except Exception as error:
            await self._trouble.failed(folder, seen, number, told(folder.preset.id, error))

    async def resume(self, folder: WatchFolder, row: FileRow) -> None:
        """Go on with a file whose daemon ended while it was at work on it."""
        try:
            await self._texts.remove_leftovers(folder.preset, row)
            if row.status == "written":
                await self._conclude(folder, row)
                return
            job = self._jobs.find(row.job) if row.job is not None else None
            if job is None:
                await self._lose(folder, row)
            else:
                await self._finish(folder, row.id, job)
        except Exception as error:
            seen = Seen(row.path, row.identity)
            await self._trouble.failed(folder, seen, row.id, told(folder.preset.id, error))

    async def rename(self, folder: WatchFolder, row: FileRow, seen: Seen) -> None:
        """A file has another name now, and what was written for it follows; what somebody has changed stays.

        The ledger is told last: whoever dies before that begins again, and finds what has been done.
        """
        async with self._lock(row.id):
            have_followed = await self._texts.follow(folder.preset, row, seen.path)
            await self._store.files.rename(row.id, seen.path, seen.identity, folder.preset.id)
            if (row.status == "done" and not have_followed) or (row.status == "failed" and row.gone):
                await self._lose(folder, msgspec.structs.replace(row, path=seen.path))

    async def forget(self, preset: WatchPreset, row: FileRow) -> None:
        """A file is not there: nobody has to be told why it has no text.

        Where it is missed for the second time, nobody waits for its text either, nor does what comes after it
        wait. Once, it may only be on its way to another name.
        """
        async with self._lock(row.id):
            if row.status not in ("done", "written"):
                await self._texts.remove_error(row)
            now = await self._store.files.get(row.id) if row.gone is not None else None
            if now is not None and self.waits(now):
                self._waiting.discard(now.id)
                await self._after.give_up(preset, now)
            if now is None or now.job is None or now.status != "working":
                return
            await self._store.files.update(row.id, status="lost", job=None)  # a cancel is no failure
        self._jobs.cancel(now.job)

    async def has_texts(self, folder: WatchFolder, row: FileRow) -> bool:
        """Whether there is something in all the places where texts of a file were written."""
        paths = [output.path for output in await self._store.outputs.of(row.id)]
        return await folder.in_thread(lambda: all(map(os.path.lexists, paths)))

    def waits(self, row: FileRow) -> bool:
        """Whether what comes after the texts of a file is still to be begun."""
        return row.status == "written" and row.id in self._waiting

    def _lock(self, number: int) -> anyio.Lock:
        """Held while outputs of a file are written or renamed."""
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
        # One that took too long to be read may hold anything.
        is_same = known is not None and content_hash is not None and content_hash == known.hash
        same = known if is_same else None
        # One at work has another name, and was touched since: what is made of it holds.
        is_done = same is not None and same.status in ("done", "written", "working")
        if same is not None and is_done and (same.gone is None or await self.has_texts(folder, same)):
            await self._store.files.update(same.id, identity=seen.identity, gone=None)
            if self.waits(same):
                folder.look_at(seen.path)
            return None
        if known is not None and same is None:
            async with self._lock(known.id):
                await self._texts.disown(known.id)
        attempts = same.attempts if same is not None else 0
        numbers: list[int] = []

        def note(connection: sqlite3.Connection, job: str) -> None:
            numbers[:] = [put_file(connection, watch, seen, content_hash, job=job, attempts=attempts)]

        stamp = FileStamp(size_bytes=seen.identity.size_bytes, modified_ns=seen.identity.modified_ns)
        again = same.job if same is not None else None
        job = await self._jobs.submit(folder.preset, path, stamp, content_hash, again, note)
        if known is not None and known.job not in (None, job.id):
            self._jobs.cancel(known.job)  # it has another name, and was edited since
        return numbers[0], job

    async def _finish(self, folder: WatchFolder, number: int, job: Job) -> None:
        self._waiting.discard(number)  # it holds something else by now
        await job.over.wait()
        if job.is_suspended:
            return  # the next daemon goes on with it
        is_all = is_all_done(folder.preset)
        async with self._lock(number):
            row = await self._have_written(folder, number, job, "done" if is_all else "written")
        if row is None:
            return
        folder.went_well(row.path)
        if is_all:
            self._on_outcome(folder, row.path, "done")
        else:
            await self._conclude(folder, row)

    async def _have_written(
        self, folder: WatchFolder, number: int, job: Job, status: FileStatus
    ) -> FileRow | None:
        """Write what a job has found out; the file that it was for, unless something else is to be done."""
        row = await self._store.files.get(number)
        if row is None or row.job != job.id:
            return None  # its watch was removed; another job is at work on what it holds by now
        if job.error is not None:
            if await run_sync(scanner.is_same, folder.preset.path, row.path, row.identity):
                raise job.error.copy()
        elif (transcript := await self._jobs.transcript(job)) is not None:
            how = f"{transcript.duration:.1f} s were transcribed"
            if job.is_cached:
                how = "The text was kept from before"
            if await self._texts.write(folder.preset, row, transcript, status, how):
                return row
        await self._lose(folder, row)  # it was renamed, edited or deleted meanwhile
        return None

    async def _conclude(self, folder: WatchFolder, row: FileRow) -> None:
        self._waiting.discard(row.id)
        if await self._after.run(folder, row):
            self._on_outcome(folder, row.path, "done")
        else:
            self._waiting.add(row.id)
            async with self._lock(row.id):  # it may just be getting another name
                now = await self._store.files.get(row.id)
            if now is not None:
                folder.look_at(now.path)

    async def _lose(self, folder: WatchFolder, row: FileRow) -> None:
        """What is to be done for a file now, a look finds out."""
        await self._store.files.update(row.id, status="lost")
        folder.look_at(row.path)


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
