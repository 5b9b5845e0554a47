"""Write the outputs of files: their texts, or the error file that says why there is none."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import msgspec
from anyio.to_thread import run_sync

from whisperd.jobs.segments import Transcript, on_one_line
from whisperd.outputs import render
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.watch import scanner, writing
from whisperd.watch.file_table import update_file
from whisperd.watch.ledger import FileRow, FileStatus
from whisperd.watch.log_table import LogLine, add_log
from whisperd.watch.names import ERROR_FORMAT, is_same_name, output_names
from whisperd.watch.output_table import OutputRow, Wanted, set_outputs
from whisperd.watch.preset import WatchPreset
from whisperd.watch.store import WatchStore

__all__ = ["Texts"]

log = logging.getLogger(__name__)

UNKNOWN_LANGUAGE: Final = "und"
"""The ISO 639 code for an undetermined language."""


class Texts:
    """Writes outputs, and records them in the ledger."""

    def __init__(self, store: WatchStore) -> None:
        self._store = store

    async def write(
        self, preset: WatchPreset, row: FileRow, transcript: Transcript, status: FileStatus, how: str
    ) -> bool:
        """Write the outputs that the watch wants for a file, and delete others. One transaction records them,
        its status, and a log line that begins with `how`. An output of ours that the user has changed is
        left, and the log line says so. Raises `output.*` and `disk.full`.

        Returns False and writes nothing if the file has changed.
        """
        drafts = await run_sync(_drafts, preset, row, transcript)
        if drafts is None:
            return False
        own = {output.path for output in await self._store.outputs.of(row.id) if output.hash is not None}
        claimed, stale = await self._store.outputs.claim(row.id, [draft.wanted for draft in drafts])
        there, left = [], []
        for output, draft in zip(claimed, drafts, strict=True):
            place = partial(writing.place, output.path, draft.content, overwrite=preset.overwrite)
            try:
                await run_sync(place, await self._overwritable(output), os.path.join(preset.path, row.path))
                there.append(_written(output))
            except WhisperdError as error:
                if error.code != "output.exists":
                    raise
                if output.path not in own:
                    await self._store.outputs.forget(output.path)  # it is not ours, nor will it be next time
                    raise
                left.append(msgspec.structs.replace(output, next_hash=None))
                there.append(left[-1])
        if stale:
            await run_sync(_remove, stale)
        written = [output for output in there if output not in left]
        message = f"{how}: {_names(written)}." if written else f"{how}."
        if left:
            message += f" Left unchanged because it was edited: {_names(left)}."

        def note(connection: sqlite3.Connection) -> None:
            set_outputs(connection, row.id, there)
            update_file(connection, row.id, status=status, attempts=0, retry_at=None, error=None)
            add_log(connection, preset.id, LogLine("done", row.path, message))

        await self._store.run(note)
        return True

    async def write_error(self, preset: WatchPreset, row: FileRow, error: WhisperdError) -> None:
        """Write an error file next to the recording that says why there is no text."""
        then = f"Then run: whisperctl watch retry {preset.id}"
        lines = (error.message, error.fix, "", f"Code: {error.code}", then)
        content = sendable("".join(f"{on_one_line(line)}\n" for line in lines)).encode()
        places = await run_sync(_places, preset, row.path, UNKNOWN_LANGUAGE, ERROR_FORMAT)
        wanted = Wanted(places, ERROR_FORMAT, UNKNOWN_LANGUAGE, writing.text_hash(content))
        kept = await self._store.outputs.of(row.id)
        try:
            (claimed,), _ = await self._store.outputs.claim(row.id, [wanted])
            source = os.path.join(preset.path, row.path)
            await run_sync(writing.place, claimed.path, content, claimed.hashes, source)
            others = [one for one in kept if one.path != claimed.path]
            await self._store.outputs.replace(row.id, [*others, _written(claimed)])
        except WhisperdError as refused:  # the log line has the error
            log.info("watch folder %s: cannot write an error file: %s", preset.id, refused.code)

    async def remove_error(self, row: FileRow) -> None:
        """Delete the error file of a recording, unless the user has changed it.

        The record of one that is missing is kept: like the recording, it may be on an unmounted disk.
        """
        outputs = await self._store.outputs.of(row.id)
        errors = [output for output in outputs if output.format == ERROR_FORMAT]
        if errors := await run_sync(_existing, errors):
            await run_sync(_remove, errors)
            await self._store.outputs.replace(row.id, [one for one in outputs if one not in errors])

    async def disown(self, number: int) -> None:
        """Disown outputs that the user has changed, as their file now contains another recording."""
        outputs = await self._store.outputs.of(number)
        ours = await run_sync(_unchanged, outputs)
        if len(ours) < len(outputs):
            await self._store.outputs.replace(number, ours)

    async def follow(self, preset: WatchPreset, row: FileRow, path: str) -> bool:
        """Rename the outputs of a file to match its new path; outputs that the user has changed stay.

        Returns whether all of them exist somewhere: a moved folder may have taken some of them away.
        """
        outputs = await self._store.outputs.of(row.id)
        moved, is_whole = [], True
        for output in outputs:
            places = await run_sync(_places, preset, path, output.language, output.format)
            target = await self._store.outputs.free_place(row.id, places)
            is_there = target == output.path or await run_sync(
                writing.rename_output, output.path, target, output.hashes
            )
            moved.append(msgspec.structs.replace(output, path=target) if is_there else output)
            is_whole = is_whole and (is_there or await run_sync(os.path.lexists, output.path))
        await self._store.outputs.replace(row.id, moved)
        return is_whole

    async def remove_leftovers(self, preset: WatchPreset, row: FileRow) -> None:
        """Delete partial files of an interrupted write. A walk finds only those in the watched folder."""
        places = {os.path.dirname(output.path) for output in await self._store.outputs.of(row.id)}
        if preset.move_to is not None:
            places.add(os.path.join(preset.move_to, os.path.dirname(row.path)))
        for place in places:
            await run_sync(writing.remove_leftovers, place)

    async def _overwritable(self, output: OutputRow) -> Collection[str]:
        """Return the hashes that may be overwritten there. Raises `output.exists` for another file's text."""
        found = await run_sync(writing.file_hash, output.path)
        if found is None or found in output.hashes:
            return output.hashes
        others = [one for one in await self._store.outputs.places_of(found) if one != output.path]
        # The user may have changed the text of another recording in that folder.
        beside = await self._store.outputs.below(os.path.dirname(output.path))
        if await run_sync(_is_one_of, output.path, {*others, *beside} - {output.path}):
            raise _name_collision(output.path)
        return {found} if await run_sync(_was_moved_along, output.path, found, others) else output.hashes


class _Draft(NamedTuple):
    """An output to be written, with its content."""

    wanted: Wanted
    content: bytes


def _drafts(preset: WatchPreset, row: FileRow, transcript: Transcript) -> list[_Draft] | None:
    """Render the outputs of a file; None if the file has changed. Blocks."""
    if not scanner.is_same(preset.path, row.path, row.identity):
        return None
    language = transcript.language or UNKNOWN_LANGUAGE
    drafts = []
    for name in preset.outputs:
        content = render(transcript, name).encode(errors="replace")
        places = _places(preset, row.path, language, name)
        drafts.append(_Draft(Wanted(places, name, language, writing.text_hash(content)), content))
    return drafts


def _places(preset: WatchPreset, path: str, language: str, format_name: str) -> Iterator[str]:
    """Return possible paths of an output of a file, the best first. Blocks."""
    folder = os.path.join(preset.output_dir or preset.path, os.path.dirname(path))
    longest = writing.longest_name(folder)
    names = output_names(preset.name, os.path.basename(path), language, format_name, longest)
    return (os.path.join(folder, name) for name in names)


def _remove(outputs: Sequence[OutputRow]) -> None:
    """Delete earlier outputs that are no longer wanted, unless the user has changed them. Blocks."""
    for output in outputs:
        writing.remove_ours(output.path, output.hashes)


def _is_one_of(path: str, others: Collection[str]) -> bool:
    """Whether another of our outputs is there: some disks take `A.txt` and `a.txt` for the same. Blocks."""
    for one in others:
        with suppress(OSError):  # it does not exist there
            if is_same_name(one, path) and os.path.samefile(one, path):
                return True
    return False


def _was_moved_along(path: str, content_hash: str, others: Sequence[str]) -> bool:
    """Whether an output of ours got here with a folder that was moved: it is missing where it was, or was
    written again since, for a recording that was renamed before. Blocks."""
    former = [one for one in others if os.path.basename(one) == os.path.basename(path)]
    is_missing = bool(former) and not any(map(os.path.lexists, former))
    return is_missing or any(writing.is_ours(one, {content_hash}) for one in others)


def _existing(outputs: Sequence[OutputRow]) -> list[OutputRow]:
    return [output for output in outputs if os.path.lexists(output.path)]


def _unchanged(outputs: Sequence[OutputRow]) -> list[OutputRow]:
    return [
        output
        for output in outputs
        if writing.is_ours(output.path, output.hashes) or not os.path.lexists(output.path)
    ]


def _names(outputs: Sequence[OutputRow]) -> str:
    return ", ".join(os.path.basename(output.path) for output in outputs)


def _written(output: OutputRow) -> OutputRow:
    return msgspec.structs.replace(output, hash=output.next_hash, next_hash=None)


def _name_collision(path: str) -> WhisperdError:
    return WhisperdError(
        "output.exists",
        f"{path} already exists: to this file system, its name equals that of another recording's text.",
        "Rename the recording, or use full file names: `whisperctl watch edit FOLDER --name"
        " '{name}.{lang}.{ext}'`.",
        {"path": path},
    )
