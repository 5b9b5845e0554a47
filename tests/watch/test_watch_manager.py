"""Watches under faults, in the test's own process, where the faults can be injected."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from watched import Watches, open_watches, put, until_done, until_noted_as_old

from toy_runtime import until
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.tasks import open_task_group
from whisperd.watch import WatchChanges, discovery, folder, manager, notifier, scanner, scheduler
from whisperd.watch.ledger import Identity, Seen
from whisperd.watch.log_table import KEPT_LOG_LINES, LogLine
from whisperd.watch.output_table import Wanted
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """An event for hanging work to wait for; it is set at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_foreign_file_named_like_our_temporary_ones_does_no_harm(tmp_path: Path, inbox: Path) -> None:
    put(inbox, f".whisperd-{'9' * 30}-0123456789abcdef.part", "a.wav")
    async with open_watches(tmp_path) as watches:
        await watches.manager.add(str(inbox), WatchChanges())
        await until((inbox / "a.en.txt").exists)


async def test_a_touched_file_leaves_no_settling_time_behind(tmp_path: Path, inbox: Path) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        added = await watches.manager.add(str(inbox), WatchChanges())
        folder = watches.folder(added.id)
        await until((inbox / "a.en.txt").exists)
        os.utime(inbox / "a.wav", (1, 1))
        folder.request_scan()
        await until_noted_as_old(watches, added.id, "a.wav")
        await until(lambda: not folder.pending.in_progress)
        assert len(watches.jobs.paths) == 1
        assert folder.pending.settled_s == {}


@pytest.mark.parametrize("is_edited", [False, True])
async def test_case_insensitive_disks_do_not_mix_up_texts_of_two_recordings(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch, is_edited: bool
) -> None:
    """A link makes two names refer to one file, as a case-insensitive disk does."""
    put(inbox, "A.mp3")
    (inbox / "a.en.json").symlink_to("A.en.json")
    async with open_watches(tmp_path) as watches:
        added = await watches.manager.add(str(inbox), WatchChanges(overwrite=True, outputs=("json",)))
        await until((inbox / "A.en.json").exists)
        transcript = await watches.jobs.transcript(None)  # type: ignore[arg-type]

        async def another(_job: Any) -> Any:
            return msgspec.structs.replace(transcript, text="Said by another one.")

        monkeypatch.setattr(watches.jobs, "transcript", another)
        if is_edited:
            (inbox / "A.en.json").write_text("corrected")
        put(inbox, "a.wav")
        watches.folder(added.id).request_scan()
        await until((inbox / "a.wav.error.txt").exists)
        assert (inbox / "a.en.json").is_symlink() and "another" not in (inbox / "A.en.json").read_text()
        (inbox / "A.mp3").write_bytes(b"another sound")  # whose own text may be replaced
        watches.folder(added.id).request_scan()
        await until(lambda: "another" in (inbox / "A.en.json").read_text())


async def test_a_slow_scan_that_finds_little_does_not_time_out(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (inbox / f"{number}").mkdir()
    put(inbox / "0", "a.wav")  # scanned last
    looks: list[int] = []

    def next_batch(*given: Any) -> list[Any]:
        looks.append(len(found := scanner_next_of(*given)))
        return found

    scanner_next_of = scanner.next_batch
    monkeypatch.setattr(scanner, "next_batch", next_batch)
    monkeypatch.setattr(discovery, "SLICE_S", 0.0)
    async with open_watches(tmp_path) as watches:
        await watches.manager.add(str(inbox), WatchChanges())
        await until((inbox / "0" / "a.en.txt").exists)
    assert max(looks) == 1  # each step is reported, so that no step looks unresponsive


async def test_a_folder_is_scanned_while_its_files_are_hashed(
    tmp_path: Path, inbox: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading: list[str] = []

    def hash_unchanged(path: str, *given: Any) -> scanner.Inspected:
        reading.append(path)
        held.wait()
        return read(path, *given)

    read = scanner.hash_unchanged
    monkeypatch.setattr(scanner, "hash_unchanged", hash_unchanged)
    put(inbox, *(f"{number}.wav" for number in range(8)))
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until(lambda: len(watches.folder(preset.id).pending.in_progress) == 8)
        await until(lambda: len(reading) == folder.READ_AT_ONCE)
        with anyio.fail_after(LIMIT_S):
            await watches.manager.scan(preset.id)
        assert len(reading) == folder.READ_AT_ONCE
        held.set()
        await until(lambda: len(watches.jobs.paths) == 8)


async def test_an_unresponsive_folder_delays_neither_other_folders_nor_the_exit(
    tmp_path: Path, inbox: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()
    put(inbox, "a.wav")
    hung: list[str] = []

    def folder_inode(path: str) -> str | None:
        if path == str(dead) and is_dead:
            hung.append(path)
            held.wait()
        return inode_of(path)

    is_dead, inode_of = False, scanner.folder_inode
    monkeypatch.setattr(scanner, "folder_inode", folder_inode)
    monkeypatch.setattr(manager, "ROOT_INTERVAL_S", 0.01)
    with anyio.fail_after(LIMIT_S):
        async with open_watches(tmp_path) as watches:
            await watches.manager.add(str(dead), WatchChanges())
            is_dead = True
            await until(lambda: hung)
            await watches.manager.add(str(inbox), WatchChanges())
            await until((inbox / "a.en.txt").exists)
        # and the manager can be closed


async def test_each_folder_has_a_slot_even_if_another_has_filled_its_own(tmp_path: Path, inbox: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    put(inbox, *(f"{number}.wav" for number in range(scheduler.FILES_AT_ONCE + 3)))
    put(other, "a.wav")
    async with open_watches(tmp_path) as watches:
        watches.jobs.held.add("held")
        await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        await until(lambda: len(watches.jobs.paths) == scheduler.FILES_AT_ONCE)
        await watches.manager.add(str(other), WatchChanges())
        await until((other / "a.en.txt").exists)
        assert len(watches.jobs.paths) == scheduler.FILES_AT_ONCE + 1


async def test_a_failed_read_of_the_ledger_is_retried(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        for name in ("with_status", "look_up"):
            monkeypatch.setattr(watches.store.files, name, failing_once(getattr(watches.store.files, name)))
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until((inbox / "a.en.txt").exists)
        await until(lambda: watches.folder(preset.id).problem is None)


async def test_a_failed_write_to_the_ledger_is_retried(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        outputs, files = watches.store.outputs, watches.store.files
        monkeypatch.setattr(outputs, "claim", failing_once(outputs.claim))
        monkeypatch.setattr(files, "update", failing_once(files.update))
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)


def failing_once(ask: Any) -> Any:
    left = [WhisperdError("store.unreadable", "It is locked.", "Try again.")]

    async def asked(*given: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return await ask(*given, **options)

    return asked


async def test_removing_a_watch_ends_requests_that_wait_for_its_scan(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_watches(tmp_path, retry_delay_s=3600) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await watches.manager.scan(preset.id)
        monkeypatch.setattr(scanner, "folder_inode", lambda path: 1 / 0)
        with pytest.raises(ExceptionGroup) as caught, anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watches.manager.scan, preset.id)
                await until(lambda: watches.folder(preset.id).problem is not None)
                tasks.start_soon(scan_and_show, watches, preset.id)
                await anyio.wait_all_tasks_blocked()
                await watches.manager.remove(preset.id)
        (error,) = caught.value.exceptions
        assert isinstance(error, WhisperdError) and error.code == "watch.unknown"


async def test_removing_a_watch_ends_requests_whose_scan_cannot_start(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_watches(tmp_path, retry_delay_s=3600) as watches:
        files = watches.store.files
        monkeypatch.setattr(files, "with_status", failing_once(files.with_status))
        preset = await watches.manager.add(str(inbox), WatchChanges())
        with pytest.raises(WhisperdError) as caught, anyio.fail_after(LIMIT_S):
            async with open_task_group() as tasks:
                tasks.start_soon(scan_and_show, watches, preset.id)
                await anyio.wait_all_tasks_blocked()
                await watches.manager.remove(preset.id)
        assert caught.value.code == "watch.unknown"


async def scan_and_show(watches: Watches, watch: str) -> None:
    await watches.manager.scan(watch)
    await watches.manager.view(watch)


async def test_a_file_renamed_while_it_is_hashed_is_one_file(
    tmp_path: Path, inbox: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_unchanged(path: str, *given: Any) -> scanner.Inspected:
        if path.endswith("b.wav"):
            reading.set()
            held.wait()
        return read(path, *given)

    read, reading = scanner.hash_unchanged, threading.Event()
    monkeypatch.setattr(scanner, "hash_unchanged", hash_unchanged)
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until((inbox / "a.en.txt").exists)
        os.link(inbox / "a.wav", inbox / "b.wav")  # as some programs rename
        await until(reading.is_set)
        (inbox / "a.wav").unlink()
        await watches.manager.scan(preset.id)
        held.set()
        await until(
            lambda: (inbox / "b.en.txt").exists() and not watches.folder(preset.id).pending.in_progress
        )
        await watches.manager.scan(preset.id)
        row = await watches.store.files.at(preset.id, "b.wav")
        assert row is not None and row.status == "done"
        gone = await watches.store.files.at(preset.id, "a.wav")
        assert gone is not None and gone.gone is not None


async def test_a_file_deleted_while_it_waits_leaves_nothing_behind(tmp_path: Path, inbox: Path) -> None:
    put(inbox, *(f"{number}.wav" for number in range(scheduler.FILES_AT_ONCE + 3)))
    async with open_watches(tmp_path) as watches:
        watches.jobs.held.add("held")
        preset = await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        pending = watches.folder(preset.id).pending
        await until(lambda: len(pending.in_progress) == scheduler.FILES_AT_ONCE and len(pending.queue) == 3)
        for name in pending.queue:
            (inbox / name).unlink()
        await until(lambda: not pending.queue)
        assert pending.settled_s.keys() == pending.in_progress.keys()


async def test_a_scan_drops_files_deleted_while_they_waited(
    tmp_path: Path, inbox: Path, no_notifications: None
) -> None:
    put(inbox, *(f"{number}.wav" for number in range(scheduler.FILES_AT_ONCE + 1)))
    async with open_watches(tmp_path) as watches:
        watches.jobs.held.add("held")
        preset = await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        pending = watches.folder(preset.id).pending
        await until(lambda: len(pending.in_progress) == scheduler.FILES_AT_ONCE and len(pending.queue) == 1)
        for name in pending.queue:
            (inbox / name).unlink()
        await watches.manager.scan(preset.id)
        assert not pending.queue and pending.settled_s.keys() == pending.in_progress.keys()


async def test_changes_are_passed_to_every_watch_that_contains_them(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "deep").mkdir()
    beside, link, other = tmp_path / "inbox2", tmp_path / "link", tmp_path / "other"
    beside.mkdir()
    link.symlink_to(beside)
    other.symlink_to(tmp_path)
    async with open_watches(tmp_path) as watches:
        for path in (inbox, inbox / "deep", link, other):
            preset = await watches.manager.add(str(path), WatchChanges(recursive=path != other))
            await watches.manager.scan(preset.id)
        other.unlink()
        other.symlink_to(beside)  # now leads to a folder that is watched from here on
        await watches.manager.scan(preset.id)
        folders = {watched.preset.path: watched for watched in watches.folders()}
        hints: dict[str, dict[str, bool]] = {}
        for path, watched in folders.items():
            monkeypatch.setattr(watched, "hint", lambda changes, path=path: hints.update({path: changes}))
        # Some systems report real paths.
        assert watches.manager._notifier.folders[str(beside)]
        file, gone = str(inbox / "deep" / "a.wav"), str(beside)
        watches.manager._on_changes({file: True, gone: False, str(beside / "b.wav"): True})
        assert hints == {
            str(inbox): {file: True},
            str(inbox / "deep"): {file: True},
            **{str(one): {str(one): False, str(one / "b.wav"): True} for one in (link, other)},
        }


async def test_scanning_a_folder_does_not_touch_other_watched_folders(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other folder may be on an unresponsive disk."""
    other, link = tmp_path / "other", inbox / "link"
    other.mkdir()
    link.symlink_to(other)
    put(other, "a.wav")
    looked_at: list[str] = []
    here = threading.get_ident()

    def looks(look: Any) -> Any:
        def looked(path: Any, *given: Any, **options: Any) -> Any:
            if threading.get_ident() == here:  # the other folder is scanned too, in another thread
                looked_at.append(os.fspath(path))
            return look(path, *given, **options)

        return looked

    async with open_watches(tmp_path) as watches:
        for path in (inbox, other):
            preset = await watches.manager.add(str(path), WatchChanges())
            await watches.manager.scan(preset.id)
        await until_done(watches, preset.id)
        selection = next(one for one in watches.folders() if one.preset.path == str(inbox)).selection
        with monkeypatch.context() as patch:
            patch.setattr(scanner.os, "stat", looks(os.stat))
            patch.setattr(scanner.os, "lstat", looks(os.lstat))
            link.unlink()
            assert list(scanner.walk(str(inbox), selection)) == [None]
            assert scanner.classify(str(inbox), selection, [], print) == ([], [], [])
        assert str(inbox) in looked_at and str(other) not in looked_at


DAMAGED = WhisperdError("audio.corrupt", "Nothing in it can be decoded.", "Fetch it again.")


async def test_failed_recordings_with_equal_names_have_separate_error_files(
    tmp_path: Path, inbox: Path
) -> None:
    """Both watches write into one folder."""
    other, texts = tmp_path / "other", tmp_path / "texts"
    other.mkdir()
    put(inbox, "a.wav")
    (other / "a.wav").write_bytes(b"another sound")
    async with open_watches(tmp_path) as watches:
        message = "caf\udce9\x1b[2J\nis damaged."  # a file name may contain anything
        watches.jobs.error = WhisperdError("audio.corrupt", message, "Fetch it again.")
        for folder_of_recordings in (inbox, other):
            await watches.manager.add(str(folder_of_recordings), WatchChanges(output_dir=str(texts)))
        names = {"a.wav.error.txt", "a (2).wav.error.txt"}
        await until(lambda: {path.name for path in texts.glob("*")} == names)
        written = (texts / "a.wav.error.txt").read_text()
        assert written.startswith("caf\\xe9[2J is damaged.\nFetch it again.\n")


async def test_a_failed_file_on_a_missing_disk_is_retried_when_it_is_back(
    tmp_path: Path, inbox: Path
) -> None:
    """The missing disk leaves an empty folder behind."""
    put(inbox, "a.wav")
    reason = inbox / "a.wav.error.txt"
    async with open_watches(tmp_path) as watches:
        watches.jobs.error = DAMAGED
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until(lambda: reason.exists() and not watches.folder(preset.id).pending.in_progress)
        inbox.rename(tmp_path / "away")
        inbox.mkdir()
        await watches.manager.scan(preset.id)
        row = await watches.store.files.at(preset.id, "a.wav")
        assert row is not None and row.gone is not None
        watches.jobs.error = None
        inbox.rmdir()
        (tmp_path / "away").rename(inbox)
        await watches.manager.scan(preset.id)
        await until((inbox / "a.en.txt").exists)
        await until(lambda: not reason.exists())


async def test_a_watch_stays_if_removing_it_fails(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        monkeypatch.setattr(watches.store, "delete", failing_once(watches.store.delete))
        with pytest.raises(WhisperdError, match="locked"):
            await watches.manager.remove(preset.id)
        assert watches.manager.all() == [preset]
        put(inbox, "a.wav")
        await watches.manager.scan(preset.id)
        await until((inbox / "a.en.txt").exists)
        await watches.manager.remove(preset.id)
        assert watches.manager.all() == await watches.store.load() == []
        await watches.manager.add(str(inbox), WatchChanges())


async def test_work_that_ends_after_its_watch_was_removed_is_not_recorded(
    tmp_path: Path, inbox: Path
) -> None:
    seen = Seen("a.wav", Identity("1", 2, 3))
    async with open_watches(tmp_path) as watches:
        files, outputs = watches.store.files, watches.store.outputs
        preset = await watches.manager.add(str(inbox), WatchChanges())
        number = await files.put(preset.id, seen, None)
        assert await files.try_again([number]) == 1
        await files.update(number, status="working")  # as if another worker was a moment faster
        assert await files.try_again([number]) == 0
        await watches.manager.remove(preset.id)
        wanted = Wanted([str(inbox / "a.txt")], "txt", "en", "hash")
        claimed, _ = await outputs.claim(number, [wanted])
        await outputs.replace(number, claimed)
        assert await outputs.of(number) == []
        with pytest.raises(WhisperdError) as caught:
            await files.put(preset.id, seen, None)
        assert caught.value.code == "watch.unknown"


async def test_retry_all_skips_excluded_files(tmp_path: Path, inbox: Path) -> None:
    (inbox / "drafts").mkdir()
    put(inbox, "a.wav", "b.mp3")
    put(inbox / "drafts", "c.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id, 3)
        await watches.manager.edit(preset.id, WatchChanges(exclude=("drafts", "*.mp3")))
        assert await watches.manager.retry(preset.id, all=True) == 1
        await until(lambda: len(watches.jobs.paths) == 4)
        assert watches.jobs.paths[-1] == str(inbox / "a.wav")


async def test_a_changed_settle_s_takes_effect_at_the_next_scan(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_watches(tmp_path) as watches:
        settings = [WatchSettings(settle_s=0.1)]
        monkeypatch.setattr(watches.manager, "_settings", lambda: settings[-1])
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await watches.manager.scan(preset.id)
        settings.append(WatchSettings(settle_s=7.0))
        await watches.manager.scan(preset.id)
        assert watches.folder(preset.id).pending.settling.settle_s == 7.0


async def test_an_unresponsive_folder_is_scanned_again_soon(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_answer(*_given: Any) -> None:
        raise TimeoutError

    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await watches.manager.scan(preset.id)
        watched = watches.folder(preset.id)
        monkeypatch.setattr(folder, "run_abandonable", no_answer)
        watched.request_scan()
        await until(lambda: watched.is_polled and watched.root is None)
        settings = WatchSettings()
        assert watched.next_scan_s - anyio.current_time() <= settings.poll_interval_s
        assert settings.poll_interval_s < settings.scan_interval_s


async def test_a_folder_that_is_back_is_watched_even_if_logging_fails(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await watches.manager.scan(preset.id)
        away = inbox.rename(tmp_path / "away")
        await watches.manager.scan(preset.id)
        assert not watches.manager._notifier.folders
        monkeypatch.setattr(watches.store.log, "add", failing_once(watches.store.log.add))
        away.rename(inbox)
        await watches.manager.scan(preset.id)
        await until(lambda: str(inbox) in watches.manager._notifier.folders)


async def test_after_its_folder_was_replaced_a_watch_hears_of_changes_in_the_new_one(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if a scan finds the new folder first: the kernel still reports changes in the old one."""
    async with open_watches(tmp_path) as watches:
        listening: list[str] = []
        monkeypatch.setattr(watches.manager._notifier, "_on_lost", listening.append)
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until(lambda: listening)
        inbox.rename(tmp_path / "old")
        inbox.mkdir()
        await watches.manager.scan(preset.id)
        await watches.manager._check_folders(watches.folders())
        await until(lambda: len(listening) == 2)
        put(inbox, "a.wav")
        await until((inbox / "a.en.txt").exists)


async def test_a_new_inode_of_a_folder_on_a_network_does_not_restart_the_listener(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network drives report a new one each time; then all other folders would be scanned each time."""
    renewed: list[str] = []
    monkeypatch.setattr(discovery, "needs_polling", lambda _file_system: True)
    async with open_watches(tmp_path) as watches:
        monkeypatch.setattr(watches.manager._notifier, "renew", lambda: renewed.append("renewed"))
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await watches.manager.scan(preset.id)
        inbox.rename(tmp_path / "old")
        inbox.mkdir()
        await watches.manager.scan(preset.id)
        assert not renewed


async def test_a_folder_that_is_back_is_not_reported_absent_during_its_scan(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[WhisperdError | None] = []

    def walk(*given: Any) -> Any:
        problems.append(watches.folder(preset.id).problem)
        return walk_of(*given)

    walk_of = scanner.walk
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await watches.manager.scan(preset.id)
        away = inbox.rename(tmp_path / "away")
        await watches.manager.scan(preset.id)
        assert watches.folder(preset.id).problem is not None
        monkeypatch.setattr(scanner, "walk", walk)
        away.rename(inbox)
        await watches.manager.scan(preset.id)
        assert problems[0] is None


async def test_a_scan_without_changes_writes_nothing(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        marked: list[Any] = []
        monkeypatch.setattr(watches.store.files, "mark_gone", marked.append)
        await watches.manager.scan(preset.id)
        assert not marked


async def test_an_unresponsive_folder_does_not_stop_checks_of_the_others(
    tmp_path: Path, inbox: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()
    hung: list[str] = []
    asked: list[str] = []

    def folder_inode(path: str) -> str | None:
        if path == str(dead) and is_dead:
            hung.append(path)
            held.wait()
        return inode_of(path)

    is_dead, inode_of = False, scanner.folder_inode
    monkeypatch.setattr(scanner, "folder_inode", folder_inode)
    monkeypatch.setattr(manager, "ROOT_INTERVAL_S", 0.01)
    monkeypatch.setattr(manager, "LOOK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(manager, "TOGETHER_S", 0.05)
    monkeypatch.setattr(manager, "REFUSED_INTERVAL_S", 0.0)
    async with open_watches(tmp_path) as watches:
        for path in (dead, inbox):
            await watches.manager.scan((await watches.manager.add(str(path), WatchChanges())).id)
        other = next(one for one in watches.folders() if one.preset.path == str(inbox))
        is_dead = True
        await until(lambda: len(hung) >= 2)
        before = other.root
        inbox.rename(tmp_path / "away")
        inbox.mkdir()
        await until(lambda: other.root not in (None, before))
        monkeypatch.setattr(watches.manager, "_retry_refused", lambda: asked.append("again"))
        await until(lambda: asked)


async def test_an_unexpected_error_of_a_check_does_not_end_the_daemon(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the system is short of processes, and refuses to start another thread."""
    checks: list[str] = []

    async def run_abandonable(path: str, *given: Any) -> Any:
        checks.append(path)
        if len(checks) == 1:
            raise RuntimeError("can't start new thread")
        return await run(path, *given)

    run = manager.run_abandonable
    monkeypatch.setattr(manager, "run_abandonable", run_abandonable)
    monkeypatch.setattr(manager, "ROOT_INTERVAL_S", 0.01)
    monkeypatch.setattr("whisperd.tasks.RESTART_PAUSE_S", 0.01)
    async with open_watches(tmp_path) as watches:
        await watches.manager.add(str(inbox), WatchChanges())
        await until(lambda: len(checks) > 1)


async def test_retry_all_keeps_corrected_texts(tmp_path: Path, inbox: Path) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        (inbox / "a.en.txt").write_text("corrected")
        await watches.manager.edit(preset.id, WatchChanges(outputs=("text", "srt")))
        for count in (2, 3):  # also the second time
            await watches.manager.retry(preset.id, all=True)
            await until(lambda count=count: len(watches.jobs.paths) == count)
            await until_done(watches, preset.id)
            assert (inbox / "a.en.txt").read_text() == "corrected"
            assert (inbox / "a.en.srt").exists()
        line = (await watches.manager.log(preset.id, 1))[0]
        assert line["event"] == "done" and "a.en.srt. Left" in line["message"]
        assert line["message"].endswith("a.en.txt.")
        row = await watches.store.files.at(preset.id, "a.wav")
        assert row is not None
        outputs = await watches.store.outputs.of(row.id)
        assert [output.format for output in outputs] == ["text", "srt"], "the order of outputs changed"


async def test_a_corrected_text_moves_with_its_folder(tmp_path: Path, inbox: Path) -> None:
    (inbox / "old").mkdir()
    put(inbox, "old/a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        (inbox / "old" / "a.en.txt").write_text("corrected")
        (inbox / "old").rename(inbox / "new")
        await watches.manager.scan(preset.id)
        await until_done(watches, preset.id)
        await watches.manager.retry(preset.id, all=True)
        await until(lambda: len(watches.jobs.paths) == 2)
        await until_done(watches, preset.id)
        assert sorted(path.name for path in (inbox / "new").iterdir()) == ["a.en.txt", "a.wav"]
        assert (inbox / "new" / "a.en.txt").read_text() == "corrected"


async def test_a_foreign_file_at_the_new_name_of_a_recording_is_kept(
    tmp_path: Path, inbox: Path, no_notifications: None
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        (inbox / "b.en.txt").write_text("somebody's notes")
        (inbox / "a.en.txt").unlink()
        (inbox / "a.wav").rename(inbox / "b.wav")
        await watches.manager.scan(preset.id)
        await until((inbox / "b.wav.error.txt").exists)
        assert "Code: output.exists" in (inbox / "b.wav.error.txt").read_text()
        assert (inbox / "b.en.txt").read_text() == "somebody's notes"


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_file_that_is_no_correction_of_this_recording_fails_it(
    tmp_path: Path, inbox: Path, is_new: bool
) -> None:
    """A foreign file, or the corrected text of an earlier recording of this name. Retries do not change
    that."""
    put(inbox, "a.wav")
    if is_new:
        (inbox / "a.en.txt").write_text("somebody else's")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        if not is_new:
            await until_done(watches, preset.id)
            (inbox / "a.en.txt").write_text("corrected")
            (inbox / "a.wav").write_bytes(b"another recording")
            await watches.manager.scan(preset.id)
        for _ in range(3):
            await until((inbox / "a.wav.error.txt").exists)
            await until(lambda: not watches.folder(preset.id).pending.in_progress)
            row = await watches.store.files.at(preset.id, "a.wav")
            assert row is not None and row.status == "failed"
            (inbox / "a.wav.error.txt").unlink()
            await watches.manager.retry(preset.id)
        assert (inbox / "a.en.txt").read_text() in ("somebody else's", "corrected")


@pytest.mark.parametrize("place", ["file", "file/below"])
async def test_output_dir_and_move_to_have_to_be_folders(tmp_path: Path, inbox: Path, place: str) -> None:
    (tmp_path / "file").write_text("notes")
    path = str(tmp_path / place)
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        for field, changes in {
            "output_dir": WatchChanges(output_dir=path),
            "move_to": WatchChanges(after="move", move_to=path),
        }.items():
            for asked in (
                watches.manager.edit(preset.id, changes),
                watches.manager.add(str(tmp_path), changes),
            ):
                with pytest.raises(WhisperdError) as caught:
                    await asked
                assert (caught.value.code, caught.value.data["field"]) == ("watch.invalid", field)
                assert path in caught.value.message
        assert watches.manager.all() == [preset]


@pytest.mark.skipif(os.name != "posix", reason="a shell")
async def test_a_command_is_told_what_was_transcribed(tmp_path: Path, inbox: Path) -> None:
    (inbox / "sub").mkdir()
    put(inbox, "sub/a b.wav")
    told = tmp_path / "told"
    words = ("{path}", "{name}", "{stem}", "{folder}", "{output}")
    variables = ("WHISPERD_PATH", "WHISPERD_OUTPUT", "WHISPERD_OUTPUTS", "WHISPERD_WATCH")
    script = " ".join(('printf "%s\\n" "$@"', *(f'"${name}"' for name in variables), f"> '{told}'"))
    changes = WatchChanges(outputs=("text", "srt"), command=("sh", "-c", script, "sh", *words))
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), changes)
        await until_done(watches, preset.id)
    path, text, subtitles = (f"{inbox}/sub/a b.{suffix}" for suffix in ("wav", "en.txt", "en.srt"))
    placeholders = [path, "a b.wav", "a b", f"{inbox}/sub", text]
    assert told.read_text().splitlines() == [*placeholders, path, text, text, subtitles, preset.id]


async def test_files_that_have_been_missing_for_long_are_forgotten(tmp_path: Path, inbox: Path) -> None:
    put(inbox, "here.wav", "deleted.wav", "deleted long ago.wav")
    moment = "2026-01-01T00:00:00.000Z"
    async with open_watches(tmp_path) as watches:
        store, preset = watches.store, await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id, 3)
        for name, gone in (("deleted", "2026-01-02"), ("deleted long ago", "2025-12-31")):
            row = await store.files.at(preset.id, f"{name}.wav")
            assert row is not None
            await store.files.update(row.id, gone=f"{gone}T00:00:00.000Z")
        (tmp_path / "other").mkdir()
        kept = await watches.manager.add(str(tmp_path / "other"), WatchChanges())
        await store.log.add(
            preset.id, *[LogLine("gone", None, str(number)) for number in range(KEPT_LOG_LINES + 1)]
        )
        await store.log.add(kept.id, LogLine("gone", None, "of another watch"))
        await store.retire([preset.id, kept.id], moment)
        known = await store.files.with_status(preset.id, ("done",))
        assert sorted(row.path for row in known) == ["deleted.wav", "here.wav"]
        log = await watches.manager.log(preset.id, 2 * KEPT_LOG_LINES)
        assert [line["message"] for line in log] == [str(number) for number in range(1, KEPT_LOG_LINES + 1)]
        assert len(await watches.manager.log(kept.id, 2)) == 1
        assert len(list(inbox.glob("*.txt"))) == 3, "their texts stay"


@pytest.mark.parametrize(("clock_lead_s", "kept"), [(0.0, 0), (100 * 365 * 86_400, 1)])
async def test_outputs_of_removed_watches_are_forgotten_even_without_watches(
    tmp_path: Path, inbox: Path, clock_lead_s: float, kept: int
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        await watches.manager.remove(preset.id)
        long_ago = "UPDATE former_outputs SET since = '2000-01-01T00:00:00.000Z'"
        assert await watches.store.run(lambda connection: connection.execute(long_ago).rowcount) == 1
        await watches.manager.retire(clock_lead_s)
        remain = "SELECT count(*) FROM former_outputs"
        assert await watches.store.run(lambda connection: connection.execute(remain).fetchone()) == (kept,)


@pytest.mark.parametrize("when", ["another is removed", "later"])
async def test_a_folder_whose_changes_could_not_be_reported_is_polled_only_until_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Linux limits how many folders a user may watch."""

    @asynccontextmanager
    async def limited(folders: Sequence[str], recursive: bool) -> AsyncIterator[Any]:
        if len(folders) > room:
            raise notifier._Refused("no space left on device")
        async with listen(folders, recursive) as next_batch:
            yield next_batch

    room, listen = 1, notifier._listen
    monkeypatch.setattr(notifier, "_listen", limited)
    if when == "later":
        monkeypatch.setattr(manager, "ROOT_INTERVAL_S", 0.01)
    async with open_watches(tmp_path) as watches:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            preset = await watches.manager.add(str(tmp_path / name), WatchChanges())
            await watches.manager.scan(preset.id)
        await until(lambda: [one for one in watches.folders() if one.is_polled])
        polled = next(one for one in watches.folders() if one.is_polled)
        if when == "later":
            room = 2
            monkeypatch.setattr(manager, "REFUSED_INTERVAL_S", 0.0)
        else:
            (kept,) = (one for one in watches.folders() if not one.is_polled)
            await watches.manager.remove(kept.preset.id)
        await until(lambda: not polled.is_polled and polled.real in watches.manager._notifier.folders)
        put(Path(polled.preset.path), "a.wav")
        await until((Path(polled.preset.path) / "a.en.txt").exists)
        assert not polled.is_polled
