"""Handle a failed file: retry it later, wait until its environment works again, or give up on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import anyio
import msgspec

from whisperd.clock import rfc3339_ago
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.watch.backoff import LONGEST_BACKOFF_S
from whisperd.watch.errors import to_whisperd_error, unknown_watch
from whisperd.watch.failures import kind_of_failure, retry_delay_s
from whisperd.watch.folder import WatchFolder
from whisperd.watch.ledger import FileRow, Outcome, Seen
from whisperd.watch.log_table import LogLine
from whisperd.watch.preset import WatchPreset
from whisperd.watch.store import WatchStore
from whisperd.watch.texts import Texts
from whisperd.watch.writing import FOLDER_NOT_WRITABLE

__all__ = ["FailureHandler", "OnOutcome"]

OnOutcome = Callable[[WatchFolder, str, Outcome], None]
"""Receives the outcome of a file of a folder, by its path."""

log = logging.getLogger(__name__)


class FailureHandler:
    """Decides what a failure means, by `failures`, and records it."""

    def __init__(
        self, store: WatchStore, texts: Texts, settings: Callable[[], WatchSettings], on_outcome: OnOutcome
    ) -> None:
        self._store = store
        self._texts = texts
        self._settings = settings
        self._on_outcome = on_outcome

    async def failed(self, folder: WatchFolder, seen: Seen, number: int | None, error: WhisperdError) -> None:
        """Handle the failure of a file; `number` is its id in the ledger, if it was taken.

        If the ledger itself fails, retry until the failure can be recorded, since nothing else would.
        """
        log.warning("watch folder %s: a file failed: %s", folder.preset.id, error.code)
        while True:
            try:
                await self._note(folder, seen, number, error)
                return
            except Exception as another:
                problem = to_whisperd_error(folder.preset.id, another)
                log.warning("watch folder %s: %s (%s)", folder.preset.id, problem.message, problem.code)
                folder.backoff.begin(problem)
            await anyio.sleep(self._settings().retry_delay_s)

    async def _note(self, folder: WatchFolder, seen: Seen, number: int | None, error: WhisperdError) -> None:
        row = await self._row(folder.preset.id, seen, number)
        kind = kind_of_failure(error.code)
        if error.code == "audio.not_found":  # it was renamed or deleted meanwhile; a scan finds out which
            if row is not None:
                await self._store.files.update(row.id, status="lost")
            folder.recheck(row.path if row is not None else seen.path)
        elif kind == "environment" and not _is_about_a_subfolder(folder.preset, error):
            await self._back_off(folder, seen, row, error)
        elif kind == "environment":
            await self._retry_alone(folder, row or await self._new_row(folder.preset.id, seen), error)
        else:
            row = row or await self._new_row(folder.preset.id, seen)
            if row.error is not None and row.error.get("code") == FOLDER_NOT_WRITABLE:
                row = msgspec.structs.replace(row, attempts=0)  # the folder was at fault, not the file
            if kind == "transient" and row.attempts + 1 < self._settings().attempts:
                await self._retry(folder, row, error)
            else:
                await self._give_up(folder, row, error)

    async def _row(self, watch: str, seen: Seen, number: int | None) -> FileRow | None:
        """Return the ledger's record of a failed file, updated to its current content."""
        if number is not None:
            return await self._store.files.get(number)
        row = await self._store.files.at(watch, seen.path)
        if row is None or row.identity == seen.identity:
            return row
        return await self._new_row(watch, seen, row.hash)  # the hash tells whether it was only touched

    async def _new_row(self, watch: str, seen: Seen, content_hash: str | None = None) -> FileRow:
        number = await self._store.files.put(watch, seen, content_hash)
        row = await self._store.files.get(number)
        if row is None:
            raise unknown_watch(watch)
        return row

    async def _back_off(
        self, folder: WatchFolder, seen: Seen, row: FileRow | None, error: WhisperdError
    ) -> None:
        """Stop taking files from the folder for a while."""
        if row is not None:
            await self._store.files.update(row.id, status="lost", error=error.to_wire())
        was_logged = folder.backoff.count > 0
        if folder.backoff.begin(error) and not was_logged:
            line = LogLine("waiting", seen.path, f"{error.message} {error.fix}")
            await self._store.log.add(folder.preset.id, line)
        folder.recheck(row.path if row is not None else seen.path)

    async def _retry(self, folder: WatchFolder, row: FileRow, error: WhisperdError) -> None:
        delay_s = retry_delay_s(row.attempts + 1, self._settings().retry_delay_s)
        line = LogLine("retrying", row.path, f"{error.message} Retrying in {delay_s:.0f} s.")
        await self._retry_in(folder, row, error, delay_s, line)

    async def _retry_alone(self, folder: WatchFolder, row: FileRow, error: WhisperdError) -> None:
        """Retry a file alone while one of several output folders is not writable. Logged once per folder."""
        delay_s = retry_delay_s(row.attempts + 1, self._settings().retry_delay_s, LONGEST_BACKOFF_S)
        lines = []
        if (place := error.data["folder"]) not in folder.backoff.not_writable:
            folder.backoff.not_writable.add(place)
            lines = [LogLine("waiting", row.path, f"{error.message} {error.fix}")]
        await self._retry_in(folder, row, error, delay_s, *lines)

    async def _retry_in(
        self, folder: WatchFolder, row: FileRow, error: WhisperdError, delay_s: float, *lines: LogLine
    ) -> None:
        await self._store.files.update(
            row.id,
            *lines,
            status="retrying",
            attempts=row.attempts + 1,
            retry_at=rfc3339_ago(-delay_s),
            error=error.to_wire(),
        )
        folder.retry_in(row.path, delay_s)
        self._on_outcome(folder, row.path, "retried")

    async def _give_up(self, folder: WatchFolder, row: FileRow, error: WhisperdError) -> None:
        if error.code != "job.cancelled":
            await self._texts.write_error(folder.preset, row, error)
        await self._store.files.update(
            row.id,
            LogLine("failed", row.path, f"{error.message} {error.fix}"),
            status="failed",
            attempts=row.attempts + 1,
            error=error.to_wire(),
        )
        self._on_outcome(folder, row.path, "failed")


def _is_about_a_subfolder(preset: WatchPreset, error: WhisperdError) -> bool:
    """Whether only one of several output folders is not writable."""
    place = preset.output_dir or preset.path
    return error.code == FOLDER_NOT_WRITABLE and os.path.normpath(error.data["folder"]) != place
