"""Follow up on a file whose texts are written: run the command, then keep, move or delete it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

import anyio
from anyio.to_thread import run_sync

from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.watch import scanner, writing
from whisperd.watch.command import command_words, run_command
from whisperd.watch.failures import kind_of_failure
from whisperd.watch.folder import WatchFolder
from whisperd.watch.ledger import FileRow
from whisperd.watch.log_table import LogLine
from whisperd.watch.names import ERROR_FORMAT
from whisperd.watch.preset import WatchPreset
from whisperd.watch.store import WatchStore

__all__ = ["FollowUp", "needs_no_followup"]

MOVE_RETRY_S: Final = 600.0
"""How long to wait before a recording that could not be moved is moved again: it may be a large copy."""

Result = Literal["over", "missing", "blocked"]
"""`missing`: its disk may be unmounted, or it may have been renamed. `blocked`: it cannot be moved now."""


def needs_no_followup(preset: WatchPreset) -> bool:
    """Whether the watch asks for no follow-up."""
    return preset.after == "stay" and not preset.command


class FollowUp:
    """Runs the follow-up that a watch asks for, and logs it."""

    def __init__(self, store: WatchStore, settings: Callable[[], WatchSettings]) -> None:
        self._store = store
        self._settings = settings

    async def run(self, folder: WatchFolder, row: FileRow) -> Result:
        """Run the follow-up of a file whose texts are written.

        Unless it is over, it must be run again later, which does not repeat the command of a blocked file.
        """
        preset, not_moved = folder.preset, folder.backoff.not_moved
        if not_moved.get(row.id, 0.0) > anyio.current_time():
            return "blocked"
        if not await folder.is_there(row):
            return "missing"
        is_well = row.id in not_moved or not preset.command or await self._run_command(preset, row)
        if preset.after == "stay":
            await self._store.files.update(row.id, status="done")
            return "over"
        if is_well:
            if await folder.is_away(row):  # since the command started
                return "missing"
            # Noted first: if we are interrupted, another recording may have its name when we resume.
            await self._store.files.mark_gone([row.id])
            line = await self._move_or_delete(preset, row)
        else:
            line = LogLine("stays", row.path, "The recording was left in place because its command failed.")
        if line.event == "waiting":
            lines = [] if row.id in not_moved else [line]
            await self._store.files.update(row.id, *lines, gone=None)
            not_moved[row.id] = anyio.current_time() + MOVE_RETRY_S
            return "blocked"
        if line.event == "stays":
            await self._store.files.update(row.id, line, status="done", gone=None)
        else:
            await self._store.files.mark_removed(row.id, line)
        return "over"

    async def give_up(self, preset: WatchPreset, row: FileRow) -> None:
        """Give up the follow-up of a file that cannot be found anywhere."""
        if preset.after == "stay":
            await self._store.files.update(row.id, _gone(row), status="done")
        else:  # we may have moved or deleted it before an interruption
            await self._store.files.mark_removed(row.id, _gone(row))

    async def _move_or_delete(self, preset: WatchPreset, row: FileRow) -> LogLine:
        try:
            return await run_sync(_move_or_delete, preset, row)
        except WhisperdError as error:
            if kind_of_failure(error.code) != "file":
                message = f"The recording is moved later. {error.message} {error.fix}"
                return LogLine("waiting", row.path, message)
            reason = error.message
        except OSError as error:
            reason = f"{error.strerror or error}."
        return LogLine("stays", row.path, f"The recording was left in place: {reason}")

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


def _move_or_delete(preset: WatchPreset, row: FileRow) -> LogLine:
    """Move or delete a recording, and return what was done. Blocks. Raises `OSError` and as `move_source`."""
    source = os.path.join(preset.path, row.path)
    with suppress(FileNotFoundError, NotADirectoryError), _pinned(source) as pinned:
        is_same = scanner.is_same(*os.path.split(pinned), row.identity)
        if not os.path.lexists(pinned):  # we may have removed it before an interruption
            return _gone(row)
        if not is_same:
            return LogLine("stays", row.path, "The recording was left in place because it has changed.")
        if preset.after == "delete":
            os.unlink(pinned)
            return LogLine("deleted", row.path, "The recording was deleted, as configured.")
        subfolder = os.path.join(preset.move_to or "", os.path.dirname(row.path))
        target = writing.move_source(pinned, subfolder)
        target = source if target == pinned else target
        return LogLine("moved away", row.path, f"The recording was moved to {target}.")
    return _gone(row)


@contextmanager
def _pinned(path: str) -> Iterator[str]:
    """Provide a path of the same file through its open folder, which others cannot replace meanwhile with a
    link to a folder of ours. Raises `OSError` if there is no folder."""
    if sys.platform != "linux":
        yield path
        return
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _gone(row: FileRow) -> LogLine:
    return LogLine("gone", row.path, "The recording is no longer there.")
