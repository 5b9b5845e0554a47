"""Files that a watch no longer wants are left alone at any stage; renamed ones are not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import pytest
from watched import Watches, open_watches

from toy_runtime import until
from whisperd.rpc.errors import WhisperdError
from whisperd.watch import WatchChanges, scanner
from whisperd.watch.scanner import Seen

pytestmark = pytest.mark.anyio

NOT_READABLE = WhisperdError("audio.not_readable", "It cannot be read.", "Wait.")
"""An error that is retried."""


@asynccontextmanager
async def waiting_for_its_retry(
    inbox: Path, changes: WatchChanges, retry_delay_s: float
) -> AsyncIterator[Watches]:
    """Watch a folder with one file, `a.wav`, which could not be read and waits for its retry."""
    inbox.mkdir()
    (inbox / "a.wav").write_bytes(b"sound")
    async with open_watches(inbox.parent, retry_delay_s=retry_delay_s) as watches:
        watches.jobs.error = NOT_READABLE
        preset = await watches.manager.add(str(inbox), changes)
        await until(lambda: watches.jobs.paths and not watches.folder(preset.id).pending.in_progress)
        yield watches


async def test_an_excluded_file_that_waits_for_its_retry_is_not_deleted(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    async with waiting_for_its_retry(inbox, WatchChanges(after="delete"), retry_delay_s=1) as watches:
        (folder,) = watches.folders()
        await watches.manager.edit(folder.preset.id, WatchChanges(exclude=("a.wav",)))
        submitted = len(watches.jobs.paths)
        watches.jobs.error = None
        await until(lambda: not folder.pending.waiting)
        (inbox / "b.wav").write_bytes(b"what comes behind it")
        await until((inbox / "b.en.txt").exists)
        assert len(watches.jobs.paths) == submitted + 1
        await until(lambda: not folder.pending.in_progress)
        assert (await watches.manager.view(folder.preset.id))["pending"] == 0
    assert (inbox / "a.wav").exists()


async def test_files_excluded_during_a_scan_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for number in range(20):
        (inbox / f"{number:02}.wav").write_bytes(f"sound {number}".encode())
        os.utime(inbox / f"{number:02}.wav", (1e9, 1e9))  # settled long ago
    next_batch = scanner.next_batch
    slices, is_edited = [0], Event()

    def in_slices(walk: Iterator[Seen | None], _count: int, for_s: float) -> list[Seen | None]:
        slices[0] += 1
        assert slices[0] == 1 or is_edited.wait(60)
        return next_batch(walk, 5, for_s)

    monkeypatch.setattr(scanner, "next_batch", in_slices)
    async with open_watches(tmp_path, retry_delay_s=3600) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges(after="delete"))
        pending = watches.folder(preset.id).pending
        await until(lambda: watches.jobs.paths)
        await watches.manager.edit(preset.id, WatchChanges(exclude=("*.wav",)))
        is_edited.set()
        await watches.manager.scan(preset.id)
        await until(lambda: not pending.queue and not pending.in_progress)
        assert 1 <= len(watches.jobs.paths) <= 5
    assert len(list(inbox.glob("*.wav"))) >= 15


async def test_a_file_renamed_while_it_waits_is_still_retried(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    async with waiting_for_its_retry(inbox, WatchChanges(), retry_delay_s=2) as watches:
        watches.jobs.error = None
        (inbox / "a.wav").rename(inbox / "b.wav")
        await until((inbox / "b.en.txt").exists)
