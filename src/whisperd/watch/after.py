"""What comes after the texts of a file: a command runs, and the recording stays, is moved or deleted."""

from __future__ import annotations

import os
from collections.abc import Callable

from anyio.to_thread import run_sync

from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.watch import scanner, writing
from whisperd.watch.command import command_words, run_command
from whisperd.watch.folder import WatchFolder
from whisperd.watch.ledger import FileRow
from whisperd.watch.log_table import LogLine
from whisperd.watch.names import ERROR_FORMAT
from whisperd.watch.preset import WatchPreset
from whisperd.watch.store import WatchStore

__all__ = ["After", "is_all_done"]


def is_all_done(preset: WatchPreset) -> bool:
    """Whether nothing comes after the texts."""
    return preset.after == "stay" and not preset.command


class After:
    """Does what a watch says, and notes it."""

    def __init__(self, store: WatchStore, settings: Callable[[], WatchSettings]) -> None:
        self._store = store
        self._settings = settings

    async def run(self, folder: WatchFolder, row: FileRow) -> bool:
        """The texts of a file are written: do the rest. False if it is not there: that waits, for its disk
        may be away, or it may have another name."""
        preset = folder.preset
        if not await folder.is_there(row):
            return False
        is_well = await self._run_command(preset, row) if preset.command else True
        if preset.after == "stay":
            await self._store.files.update(row.id, status="done")
            return True
        if is_well:
            if await folder.is_away(row):  # since its command has begun
                return False
            line = await self._put_away(preset, row)
        else:
            line = LogLine("stays", row.path, "The recording stays, for its command has failed.")
        if line.event == "stays":
            await self._store.files.update(row.id, line, status="done")
        else:
            await self._note_away(row, line)
        return True

    async def give_up(self, preset: WatchPreset, row: FileRow) -> None:
        """A file that waits for the rest is not anywhere: nothing more is done for it."""
        if preset.after == "stay":
            await self._store.files.update(row.id, _gone(row), status="done")
        else:  # perhaps by us, before we were cut off
            await self._note_away(row, _gone(row))

    async def _note_away(self, row: FileRow, line: LogLine) -> None:
        await self._store.files.put_away(row.id)
        await self._store.log.add(row.watch, line)

    async def _put_away(self, preset: WatchPreset, row: FileRow) -> LogLine:
        try:
            return await run_sync(_put_away, preset, row)
        except (WhisperdError, OSError) as error:
            return LogLine("stays", row.path, f"The recording stays: {getattr(error, 'message', error)}")

    async def _run_command(self, preset: WatchPreset, row: FileRow) -> bool:
        outputs = [
            output.path for output in await self._store.outputs.of(row.id) if output.format != ERROR_FORMAT
        ]
        first = outputs[0] if outputs else ""
        path = os.path.join(preset.path, row.path)
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
        await self._store.log.add(preset.id, LogLine("command", row.path, outcome.words))
        return outcome.ok


def _put_away(preset: WatchPreset, row: FileRow) -> LogLine:
    """Move or delete a recording; what was done. Blocks. Raises `OSError`, and as `move_source` does."""
    source = os.path.join(preset.path, row.path)
    is_same = scanner.is_same(preset.path, row.path, row.identity)
    if not os.path.lexists(source):  # perhaps by us, before we were cut off
        return _gone(row)
    if not is_same:
        return LogLine("stays", row.path, "The recording stays, for it was changed meanwhile.")
    if preset.after == "delete":
        os.unlink(source)
        return LogLine("deleted", row.path, "The recording was deleted, as it was asked for.")
    subfolder = os.path.join(preset.move_to or "", os.path.dirname(row.path))
    target = writing.move_source(source, subfolder)
    return LogLine("moved away", row.path, f"The recording was moved to {target}.")


def _gone(row: FileRow) -> LogLine:
    return LogLine("gone", row.path, "The recording is not there any more.")
