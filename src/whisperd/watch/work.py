"""What is done for one file of a watch: read, submitted, its outputs written, and what comes after."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Final, Protocol
from weakref import WeakValueDictionary

import anyio
import msgspec
from anyio.to_thread import run_sync

from whisperd.clock import rfc3339_ago
from whisperd.jobs.identity import FileStamp
from whisperd.jobs.job import Job, Transcript, unexpected_error
from whisperd.outputs import render
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.threads import run_abandonable
from whisperd.watch import scanner, writing
from whisperd.watch.actions import command_words, run_command
from whisperd.watch.failures import kind_of, retry_delay_s
from whisperd.watch.folder import WatchFolder
from whisperd.watch.ledger import FileRow, Seen, content_verdict
from whisperd.watch.names import ERROR_FORMAT, output_names
from whisperd.watch.preset import WatchPreset
from whisperd.watch.store import (
    LogLine,
    OutputRow,
    Wanted,
    WatchStore,
    add_log,
    put_file,
    set_outputs,
    update_file,
)

__all__ = ["FileWork", "Jobs", "Note"]

log = logging.getLogger(__name__)

HASH_TIMEOUT_S: Final = 600.0
"""How long a file is read for its hash. One that is not read by then has none: it is known by its times."""
UNKNOWN_LANGUAGE: Final = "und"
"""As ISO 639 has it."""


Note = Callable[[sqlite3.Connection, str], object]
"""Notes a job in the ledger, in the transaction that puts it into the journal."""


class Jobs(Protocol):
    """What is to be known of jobs."""

    async def submit(
        self,
        preset: WatchPreset,
        path: str,
        stamp: FileStamp,
        content_hash: str | None,
        again: str | None,
        note: Note,
    ) -> Job:
        """Take a detached job for a file, and answer once it is in the journal together with what `note`
        writes. `again` is a job that has failed with the same bytes: what it has finished is used."""

    def find(self, job: str) -> Job | None:
        """A job that is remembered."""

    def cancel(self, job: str) -> None:
        """Cancel a job, if it is remembered and not over."""

    async def transcript(self, job: Job) -> Transcript | None:
        """The result of a job, as long as it is kept."""


class FileWork:
    """Does what is to be done for files."""

    def __init__(
        self,
        store: WatchStore,
        jobs: Jobs,
        settings: Callable[[], WatchSettings],
        on_done: Callable[[WatchFolder, str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._settings = settings
        self._on_done = on_done
        self._locks: WeakValueDictionary[int, anyio.Lock] = WeakValueDictionary()

    async def take(self, folder: WatchFolder, seen: Seen) -> None:
        """Do all that is to be done for a file that has settled."""
        number: int | None = None
        try:
            taken = await self._submit(folder, seen)
            if taken is not None:
                number, job = taken
                await self._finish(folder, number, job)
        except WhisperdError as error:
            await self._failed(folder, seen, number, error.copy())
        except Exception:
            log.exception("watch %s: a file failed unexpectedly", folder.preset.id)
            await self._failed(folder, seen, number, unexpected_error())

    async def resume(self, folder: WatchFolder, row: FileRow) -> None:
        """Go on with a file whose daemon ended while it was at work on it."""
        seen = Seen(row.path, row.identity)
        try:
            await self._remove_leftovers(folder.preset, row)
            if row.status == "written":
                await self._after(folder, row)
                return
            job = self._jobs.find(row.job) if row.job is not None else None
            if job is None:
                await self._lose(folder, row)
            else:
                await self._finish(folder, row.id, job)
        except WhisperdError as error:
            await self._failed(folder, seen, row.id, error.copy())
        except Exception:
            log.exception("watch %s: a file failed unexpectedly", folder.preset.id)
            await self._failed(folder, seen, row.id, unexpected_error())

    async def rename(self, folder: WatchFolder, row: FileRow, seen: Seen) -> None:
        """A file has another name now, and what was written for it follows; what somebody has changed stays.

        The ledger is told last: whoever dies before that begins again, and finds what has been done.
        """
        async with self._lock(row.id):
            have_followed = await self._follow(folder, row, seen.path)
            await self._store.rename(row.id, seen.path, seen.identity, folder.preset.id)
            if row.status == "done" and not have_followed:
                await self._lose(folder, msgspec.structs.replace(row, path=seen.path))

    def _lock(self, number: int) -> anyio.Lock:
        """Held while outputs of a file are written or renamed."""
        lock = self._locks.get(number)
        if lock is None:
            lock = self._locks[number] = anyio.Lock()
        return lock

    async def _follow(self, folder: WatchFolder, row: FileRow, path: str) -> bool:
        """Whether all that was written is somewhere: a folder may have been moved away with some of it."""
        outputs = await self._store.outputs(row.id)
        moved, is_whole = [], True
        for output in outputs:
            places = await self._places(folder.preset, path, output.language, output.format)
            target = await self._store.free_place(row.id, places)
            is_there = target == output.path or await run_sync(
                writing.rename_output, output.path, target, output.hashes
            )
            moved.append(_at(output, target) if is_there else output)
            is_whole = is_whole and (is_there or await run_sync(os.path.lexists, output.path))
        await self._store.set_outputs(row.id, moved)
        return is_whole

    async def _submit(self, folder: WatchFolder, seen: Seen) -> tuple[int, Job] | None:
        path, watch = folder.full(seen.path), folder.preset.id
        verdict, content_hash = await self._read(path, seen)
        if verdict != "ok":
            folder.postpone(seen)
            return None
        ((_, known, others),) = await self._store.look_up(watch, [seen])
        if known is None and any(row.identity.inode == seen.identity.inode for row in others):
            root = folder.preset.path
            is_alias = seen.links == 1 and await run_sync(
                lambda: any(scanner.leads_to(root, row.path, row.identity.inode) for row in others)
            )
            if is_alias:
                return None
        is_same = content_verdict(known, content_hash) == "touched"
        is_done = is_same and known is not None and known.status in ("done", "written")
        if is_done and known is not None and (known.gone is None or await folder.has_texts(known)):
            await self._store.update_file(known.id, identity=seen.identity, gone=None)
            return None
        attempts = known.attempts if known is not None and is_same else 0
        numbers: list[int] = []

        def note(connection: sqlite3.Connection, job: str) -> None:
            numbers[:] = [put_file(connection, watch, seen, content_hash, job=job, attempts=attempts)]

        stamp = FileStamp(size_bytes=seen.identity.size_bytes, modified_ns=seen.identity.modified_ns)
        again = known.job if known is not None and is_same else None
        job = await self._jobs.submit(folder.preset, path, stamp, content_hash, again, note)
        return numbers[0], job

    async def _read(self, path: str, seen: Seen) -> scanner.Inspected:
        given_up = threading.Event()
        try:
            return await run_abandonable(
                path, lambda: scanner.hash_unchanged(path, seen.identity, given_up), HASH_TIMEOUT_S
            )
        except TimeoutError:
            return "ok", None
        except OSError as error:
            raise _not_read(path, error) from error
        finally:
            given_up.set()

    async def _finish(self, folder: WatchFolder, number: int, job: Job) -> None:
        await job.over.wait()
        if job.is_suspended:
            return  # the next daemon goes on with it
        async with self._lock(number):
            row = await self._have_written(folder, number, job)
        if row is not None:
            folder.went_well()
            await self._after(folder, row)

    async def _have_written(self, folder: WatchFolder, number: int, job: Job) -> FileRow | None:
        """Write what a job has found out; the file that it was for, unless something else is to be done."""
        row = await self._store.file(number)
        if row is None:
            return None  # its watch was removed
        seen = await run_sync(scanner.look_at, folder.preset.path, row.path)
        if seen is None or seen.identity != row.identity:
            await self._lose(folder, row)  # it was renamed, edited or deleted meanwhile: a look finds out
            return None
        if job.error is not None:
            raise job.error.copy()
        transcript = await self._jobs.transcript(job)
        if transcript is None:
            await self._lose(folder, row)
            return None
        await self._write(folder, row, transcript, is_cached=job.is_cached)
        return row

    async def _lose(self, folder: WatchFolder, row: FileRow) -> None:
        await self._store.update_file(row.id, status="lost")
        folder.hint({folder.full(row.path): False})

    async def _write(
        self, folder: WatchFolder, row: FileRow, transcript: Transcript, *, is_cached: bool
    ) -> None:
        preset = folder.preset
        language = transcript.language or UNKNOWN_LANGUAGE
        contents = await run_sync(
            lambda: {name: render(transcript, name).encode(errors="replace") for name in preset.outputs}
        )
        wanted = [
            Wanted(
                await self._places(preset, row.path, language, name),
                name,
                language,
                writing.text_hash(contents[name]),
            )
            for name in preset.outputs
        ]
        claimed, stale = await self._store.claim(row.id, wanted)
        for output in claimed:
            place = partial(
                writing.place,
                output.path,
                contents[output.format],
                source=folder.full(row.path),
                overwrite=preset.overwrite,
            )
            await self._place(place, output)
        await self._remove(stale)
        written = [_written(output) for output in claimed]
        names = ", ".join(os.path.basename(output.path) for output in written)
        how = (
            "The text was kept from before" if is_cached else f"{transcript.duration:.1f} s were transcribed"
        )

        def note(connection: sqlite3.Connection) -> None:
            set_outputs(connection, row.id, written)
            update_file(connection, row.id, status="written", attempts=0, retry_at=None, error=None)
            add_log(connection, preset.id, LogLine("done", row.path, f"{how}: {names}."))

        await self._store.run(note)

    async def _place(self, place: Callable[[Collection[str]], None], output: OutputRow) -> None:
        try:
            await run_sync(place, output.hashes)
        except WhisperdError as error:
            if error.code != "output.exists" or (carried := await self._carried(output.path)) is None:
                raise
            await run_sync(place, {carried})

    async def _carried(self, path: str) -> str | None:
        """The hash of what lies there, if we have written it, in a folder that was moved since."""
        found = await run_sync(writing.file_hash, path)
        if found is None:
            return None
        name = os.path.basename(path)
        places = [one for one in await self._store.places_of(found) if os.path.basename(one) == name]
        is_carried = places and not any([await run_sync(os.path.lexists, one) for one in places])
        return found if is_carried else None

    async def _places(self, preset: WatchPreset, path: str, language: str, format_name: str) -> Iterator[str]:
        """Where an output of a file may be, the best place first."""
        folder = os.path.join(preset.output_dir or preset.path, os.path.dirname(path))
        longest = await run_sync(writing.longest_name, folder)
        names = output_names(preset.name, os.path.basename(path), language, format_name, longest)
        return (os.path.join(folder, name) for name in names)

    async def _remove(self, outputs: Sequence[OutputRow]) -> None:
        """Delete what was written before and is not wanted any more, unless somebody has changed it."""
        for output in outputs:
            await run_sync(_remove_ours, output)

    async def _remove_leftovers(self, preset: WatchPreset, row: FileRow) -> None:
        """Delete what was left half written for a file. A walk sees only those in the watched folder."""
        places = {os.path.dirname(output.path) for output in await self._store.outputs(row.id)}
        if preset.move_to is not None:
            places.add(os.path.join(preset.move_to, os.path.dirname(row.path)))
        for place in places:
            await run_sync(writing.remove_leftovers, place)

    async def _after(self, folder: WatchFolder, row: FileRow) -> None:
        preset = folder.preset
        is_well = await self._run_command(preset, folder, row) if preset.command else True
        lines: list[LogLine] = []
        if preset.after != "stay" and is_well:
            lines = await self._put_away(folder, row)
        elif preset.after != "stay":
            lines = [LogLine("stays", row.path, "The recording stays, for its command has failed.")]
        if preset.after != "stay" and lines and lines[0].event in ("moved away", "deleted", "gone"):
            await self._store.put_away(row.id)
            await self._store.log(preset.id, *lines)
        else:
            await self._store.update_file(row.id, *lines, status="done")
        await self._on_done(folder, row.path)

    async def _put_away(self, folder: WatchFolder, row: FileRow) -> list[LogLine]:
        preset, source = folder.preset, folder.full(row.path)

        def work() -> list[LogLine]:
            seen = scanner.look_at(preset.path, row.path)
            if not os.path.lexists(source):  # perhaps by us, before we were cut off
                return [LogLine("gone", row.path, "The recording is not there any more.")]
            if seen is None or seen.identity != row.identity:
                return [LogLine("stays", row.path, "The recording stays, for it was changed meanwhile.")]
            if preset.after == "delete":
                os.unlink(source)
                return [LogLine("deleted", row.path, "The recording was deleted, as it was asked for.")]
            subfolder = os.path.join(preset.move_to or "", os.path.dirname(row.path))
            target = writing.move_source(source, subfolder)
            return [LogLine("moved away", row.path, f"The recording was moved to {target}.")]

        try:
            return await run_sync(work)
        except (WhisperdError, OSError) as error:
            return [LogLine("stays", row.path, f"The recording stays: {getattr(error, 'message', error)}")]

    async def _run_command(self, preset: WatchPreset, folder: WatchFolder, row: FileRow) -> bool:
        outputs = [
            output.path for output in await self._store.outputs(row.id) if output.format != ERROR_FORMAT
        ]
        first = outputs[0] if outputs else ""
        path = folder.full(row.path)
        values = {
            "path": path,
            "name": os.path.basename(path),
            "stem": os.path.splitext(os.path.basename(path))[0],
            "folder": os.path.dirname(path),
            "output": first,
        }
        variables = {
            "WHISPERD_PATH": path,
            "WHISPERD_OUTPUT": first,
            "WHISPERD_OUTPUTS": "\n".join(outputs),
            "WHISPERD_WATCH": preset.id,
        }
        words = command_words(preset.command, values)
        outcome = await run_command(words, self._settings().command_timeout_s, variables)
        await self._store.log(preset.id, LogLine("command", row.path, outcome.words))
        return outcome.ok

    async def _failed(
        self, folder: WatchFolder, seen: Seen, number: int | None, error: WhisperdError
    ) -> None:
        """Decide what a failure means. The ledger itself may be what fails: then nothing is decided."""
        try:
            await self._note_failure(folder, seen, number, error)
        except WhisperdError as another:
            log.warning("watch %s: %s (%s)", folder.preset.id, another.message, another.code)
            folder.hold(another, self._settings().retry_delay_s)
            folder.hint({folder.full(seen.path): False})

    async def _note_failure(
        self, folder: WatchFolder, seen: Seen, number: int | None, error: WhisperdError
    ) -> None:
        preset, settings, kind = folder.preset, self._settings(), kind_of(error.code)
        log.warning("watch %s: a file failed: %s", preset.id, error.code)
        row = await self._row(preset.id, seen, number)
        if error.code == "audio.not_found":  # it was renamed or deleted meanwhile: a look finds out
            if row is not None:
                await self._store.update_file(row.id, status="lost")
            folder.hint({folder.full(seen.path): False})
            return
        if kind == "surroundings":
            if row is not None:
                await self._store.update_file(row.id, status="lost", error=error.to_wire())
            delay_s = retry_delay_s(folder.holds + 1, settings.retry_delay_s)
            if folder.holds == 0:
                await self._store.log(
                    preset.id, LogLine("waiting", seen.path, f"{error.message} {error.fix}")
                )
            folder.hold(error, delay_s)
            folder.hint({folder.full(seen.path if row is None else row.path): False})
            return
        if row is None:
            new = await self._store.put_file(preset.id, seen, None, attempts=0, status="lost")
            row = await self._store.file(new)
            assert row is not None
        attempts = row.attempts + 1
        if kind == "passing" and attempts < settings.attempts:
            delay_s = retry_delay_s(attempts, settings.retry_delay_s)
            await self._store.update_file(
                row.id,
                LogLine("retrying", row.path, f"{error.message} It is tried again in {delay_s:.0f} s."),
                status="retrying",
                attempts=attempts,
                retry_at=rfc3339_ago(-delay_s),
                error=error.to_wire(),
            )
            folder.retry_in(row.path, delay_s)
            return
        if error.code != "job.cancelled":
            await self._write_error(folder, row, error)
        await self._store.update_file(
            row.id,
            LogLine("failed", row.path, f"{error.message} {error.fix}"),
            status="failed",
            attempts=attempts,
            error=error.to_wire(),
        )

    async def _row(self, watch: str, seen: Seen, number: int | None) -> FileRow | None:
        """What the ledger has of a file that has failed, with what it holds now."""
        row = await (self._store.file_at(watch, seen.path) if number is None else self._store.file(number))
        if row is not None and number is None and row.identity != seen.identity:
            await self._store.put_file(watch, seen, None, attempts=0, status="lost")
            row = await self._store.file(row.id)
        return row

    async def _write_error(self, folder: WatchFolder, row: FileRow, error: WhisperdError) -> None:
        """Say beside the recording why it has no text."""
        content = (
            f"{error.message}\n{error.fix}\n\nCode: {error.code}\n"
            f"Once that is done: whisperctl watch retry {folder.preset.id}\n"
        ).encode(errors="replace")
        place = next(await self._places(folder.preset, row.path, UNKNOWN_LANGUAGE, ERROR_FORMAT))
        wanted = Wanted([place], ERROR_FORMAT, UNKNOWN_LANGUAGE, writing.text_hash(content))
        kept = await self._store.outputs(row.id)
        try:
            claimed, _ = await self._store.claim(row.id, [wanted])
            source = folder.full(row.path)
            await run_sync(writing.place, claimed[0].path, content, claimed[0].hashes, source)
            others = [one for one in kept if one.path != place]
            await self._store.set_outputs(row.id, [*others, _written(claimed[0])])
        except WhisperdError as refused:  # the log has it
            log.info("watch %s: no file says why another one failed: %s", folder.preset.id, refused.code)


def _written(output: OutputRow) -> OutputRow:
    return OutputRow(
        path=output.path,
        file=output.file,
        format=output.format,
        language=output.language,
        hash=output.next_hash,
    )


def _at(output: OutputRow, path: str) -> OutputRow:
    return OutputRow(
        path=path,
        file=output.file,
        format=output.format,
        language=output.language,
        hash=output.hash,
        next_hash=output.next_hash,
    )


def _remove_ours(output: OutputRow) -> None:
    if writing.is_ours(output.path, output.hashes):
        os.unlink(output.path)


def _not_read(path: str, error: OSError) -> WhisperdError:
    return WhisperdError(
        "audio.not_readable",
        f"{path} cannot be read: {error.strerror or error}.",
        "Check the file, its permissions and its disk.",
        {"path": path},
    )
