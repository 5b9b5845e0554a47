"""What is written for the files of a watch: their texts, and why there is none."""

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

from whisperd.jobs.segments import Transcript
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
"""As ISO 639 has it."""


class Texts:
    """Writes outputs, and notes in the ledger which there are."""

    def __init__(self, store: WatchStore) -> None:
        self._store = store

    async def write(
        self, preset: WatchPreset, row: FileRow, transcript: Transcript, status: FileStatus, how: str
    ) -> bool:
        """Have the outputs of a file, and no others; its status and a line of the log, which says `how`, are
        noted with them. What we have written for it and somebody has changed since is left, and that is said.
        Raises `output.*` and `disk.full`.

        False, and nothing is written, if the file is not any more what it was.
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
                await run_sync(place, await self._ours(output), os.path.join(preset.path, row.path))
                there.append(_written(output))
            except WhisperdError as error:
                if error.code != "output.exists":
                    raise
                if output.path not in own:
                    await self._store.outputs.forget(output.path)  # it is somebody else's, also next time
                    raise
                left.append(msgspec.structs.replace(output, next_hash=None))
                there.append(left[-1])
        if stale:
            await run_sync(_remove, stale)
        written = [output for output in there if output not in left]
        message = f"{how}: {_names(written)}." if written else f"{how}."
        if left:
            message += f" Left, for somebody has changed it: {_names(left)}."

        def note(connection: sqlite3.Connection) -> None:
            set_outputs(connection, row.id, there)
            update_file(connection, row.id, status=status, attempts=0, retry_at=None, error=None)
            add_log(connection, preset.id, LogLine("done", row.path, message))

        await self._store.run(note)
        return True

    async def write_error(self, preset: WatchPreset, row: FileRow, error: WhisperdError) -> None:
        """Say beside the recording why it has no text."""
        content = sendable(
            f"{error.message}\n{error.fix}\n\nCode: {error.code}\n"
            f"Once that is done: whisperctl watch retry {preset.id}\n"
        ).encode()
        places = await run_sync(_places, preset, row.path, UNKNOWN_LANGUAGE, ERROR_FORMAT)
        wanted = Wanted(places, ERROR_FORMAT, UNKNOWN_LANGUAGE, writing.text_hash(content))
        kept = await self._store.outputs.of(row.id)
        try:
            (claimed,), _ = await self._store.outputs.claim(row.id, [wanted])
            source = os.path.join(preset.path, row.path)
            await run_sync(writing.place, claimed.path, content, claimed.hashes, source)
            others = [one for one in kept if one.path != claimed.path]
            await self._store.outputs.replace(row.id, [*others, _written(claimed)])
        except WhisperdError as refused:  # the log has it
            log.info("watch %s: no file says why another one failed: %s", preset.id, refused.code)

    async def remove_error(self, row: FileRow) -> None:
        """Delete what says why a file has no text, unless somebody has changed it.

        What is not there is not forgotten: it may be on a disk that is away, as the file itself.
        """
        outputs = await self._store.outputs.of(row.id)
        errors = [output for output in outputs if output.format == ERROR_FORMAT]
        if errors := await run_sync(_those_there, errors):
            await run_sync(_remove, errors)
            await self._store.outputs.replace(row.id, [one for one in outputs if one not in errors])

    async def disown(self, number: int) -> None:
        """A file holds another recording now: what somebody has made of the former texts is theirs."""
        outputs = await self._store.outputs.of(number)
        ours = await run_sync(_not_changed, outputs)
        if len(ours) < len(outputs):
            await self._store.outputs.replace(number, ours)

    async def follow(self, preset: WatchPreset, row: FileRow, path: str) -> bool:
        """Have what was written for a file follow it to another path; what somebody has changed stays.

        Returns whether all of it is somewhere: a folder may have been moved away with some of it.
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
        """Delete what was left half written for a file. A walk sees only those in the watched folder."""
        places = {os.path.dirname(output.path) for output in await self._store.outputs.of(row.id)}
        if preset.move_to is not None:
            places.add(os.path.join(preset.move_to, os.path.dirname(row.path)))
        for place in places:
            await run_sync(writing.remove_leftovers, place)

    async def _ours(self, output: OutputRow) -> Collection[str]:
        """Hashes of what lies there and may be written over. Raises `output.exists` of another one's text."""
        found = await run_sync(writing.file_hash, output.path)
        if found is None or found in output.hashes:
            return output.hashes
        others = [one for one in await self._store.outputs.places_of(found) if one != output.path]
        # Somebody may have changed what another recording has beside it.
        beside = await self._store.outputs.below(os.path.dirname(output.path))
        if await run_sync(_is_one_of, output.path, {*others, *beside} - {output.path}):
            raise _of_another(output.path)
        return {found} if await run_sync(_was_carried, output.path, others) else output.hashes


class _Draft(NamedTuple):
    """An output that is to be written, and what it is to hold."""

    wanted: Wanted
    content: bytes


def _drafts(preset: WatchPreset, row: FileRow, transcript: Transcript) -> list[_Draft] | None:
    """The outputs that a file is to have; None if it is not any more what it was. Blocks."""
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
    """Where an output of a file may be, the best place first. Blocks."""
    folder = os.path.join(preset.output_dir or preset.path, os.path.dirname(path))
    longest = writing.longest_name(folder)
    names = output_names(preset.name, os.path.basename(path), language, format_name, longest)
    return (os.path.join(folder, name) for name in names)


def _remove(outputs: Sequence[OutputRow]) -> None:
    """Delete what was written before and is not wanted any more, unless somebody has changed it. Blocks."""
    for output in outputs:
        writing.remove_ours(output.path, output.hashes)


def _is_one_of(path: str, others: Collection[str]) -> bool:
    """Whether another of our texts lies there: some disks take `A.txt` and `a.txt` for one. Blocks."""
    for one in others:
        with suppress(OSError):  # it is somewhere else
            if is_same_name(one, path) and os.path.samefile(one, path):
                return True
    return False


def _was_carried(path: str, others: Sequence[str]) -> bool:
    """Whether one of our texts came here in a folder that was moved. Blocks."""
    former = [one for one in others if os.path.basename(one) == os.path.basename(path)]
    return bool(former) and not any(map(os.path.lexists, former))


def _those_there(outputs: Sequence[OutputRow]) -> list[OutputRow]:
    return [output for output in outputs if os.path.lexists(output.path)]


def _not_changed(outputs: Sequence[OutputRow]) -> list[OutputRow]:
    return [
        output
        for output in outputs
        if writing.is_ours(output.path, output.hashes) or not os.path.lexists(output.path)
    ]


def _names(outputs: Sequence[OutputRow]) -> str:
    return ", ".join(os.path.basename(output.path) for output in outputs)


def _written(output: OutputRow) -> OutputRow:
    return msgspec.structs.replace(output, hash=output.next_hash, next_hash=None)


def _of_another(path: str) -> WhisperdError:
    return WhisperdError(
        "output.exists",
        f"{path} is there already: this disk takes its name for that of another recording's text.",
        "Rename the recording, or use the whole names: `whisperctl watch edit FOLDER --name"
        " '{name}.{lang}.{ext}'`.",
        {"path": path},
    )
