"""Watches when something is not as it should be: in the test's own process, where it can be made so."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
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
from whisperd.watch import WatchChanges, discovery, folder, manager, scanner, scheduler
from whisperd.watch.ledger import Identity, Seen
from whisperd.watch.output_table import Wanted
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """Work that waits for it hangs until the end of the test, or until it is set."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_name_that_looks_like_ours_and_is_not_ends_nothing(tmp_path: Path, inbox: Path) -> None:
    put(inbox, f".whisperd-{'9' * 30}-0123456789abcdef.part", "a.wav")
    async with open_watches(tmp_path) as watches:
        await watches.manager.add(str(inbox), WatchChanges())
        await until((inbox / "a.en.txt").exists)


async def test_a_file_that_was_only_touched_settles_anew_when_it_is_edited(
    tmp_path: Path, inbox: Path
) -> None:
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
async def test_a_text_of_another_recording_is_not_replaced_on_a_disk_that_does_not_tell_case(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch, is_edited: bool
) -> None:
    """Here by a link, which makes two names one, as such a disk does."""
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
        (inbox / "A.mp3").write_bytes(b"another sound")  # of which the text may be replaced
        watches.folder(added.id).request_scan()
        await until(lambda: "another" in (inbox / "A.en.json").read_text())


async def test_a_tree_with_few_recordings_is_no_folder_that_does_not_answer(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (inbox / f"{number}").mkdir()
    put(inbox / "0", "a.wav")  # it is looked at last
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
    assert max(looks) == 1  # however long that takes, somebody hears of it


async def test_a_folder_is_looked_at_while_its_files_are_read(
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


async def test_a_folder_that_does_not_answer_holds_up_nobody(
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
        # and it can be left


async def test_a_folder_whose_jobs_wait_leaves_a_place_to_each_other_one(tmp_path: Path, inbox: Path) -> None:
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


async def test_a_ledger_that_cannot_be_read_is_asked_again(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        for name in ("with_status", "look_up"):
            monkeypatch.setattr(watches.store.files, name, failing_once(getattr(watches.store.files, name)))
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until((inbox / "a.en.txt").exists)
        await until(lambda: watches.folder(preset.id).problem is None)


async def test_what_becomes_of_a_file_is_decided_once_the_ledger_can_be_written(
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


async def test_who_waits_for_a_look_is_told_when_the_watch_is_removed(
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


async def test_who_waits_for_a_look_that_cannot_begin_is_told_when_the_watch_is_removed(
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


async def test_a_file_that_gets_another_name_while_it_is_read_is_one_file(
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


async def test_what_is_deleted_while_it_waits_leaves_nothing_behind(tmp_path: Path, inbox: Path) -> None:
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


async def test_a_scan_finds_out_what_was_deleted_while_it_waits(
    tmp_path: Path, inbox: Path, untold: None
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


async def test_changes_are_given_to_the_folders_that_they_are_in(
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
        other.symlink_to(beside)  # which leads to a folder that is watched from now on
        await watches.manager.scan(preset.id)
        folders = {watched.preset.path: watched for watched in watches.folders()}
        hints: dict[str, dict[str, bool]] = {}
        for path, watched in folders.items():
            monkeypatch.setattr(watched, "hint", lambda changes, path=path: hints.update({path: changes}))
        # There are systems that tell of real paths.
        assert watches.manager._notifier.folders[str(beside)]
        file, gone = str(inbox / "deep" / "a.wav"), str(beside)
        watches.manager._on_changes({file: True, gone: False, str(beside / "b.wav"): True})
        assert hints == {
            str(inbox): {file: True},
            str(inbox / "deep"): {file: True},
            **{str(one): {str(one): False, str(one / "b.wav"): True} for one in (link, other)},
        }


async def test_who_looks_into_a_folder_looks_at_no_other_that_is_watched(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one may be on a disk that does not answer."""
    other, link = tmp_path / "other", inbox / "link"
    other.mkdir()
    link.symlink_to(other)
    put(other, "a.wav")
    looked_at: list[str] = []
    here = threading.get_ident()

    def looks(look: Any) -> Any:
        def looked(path: Any, *given: Any, **options: Any) -> Any:
            if threading.get_ident() == here:  # the other one is looked into as well
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


async def test_recordings_with_one_name_that_fail_have_each_their_reason(tmp_path: Path, inbox: Path) -> None:
    """Their texts go into one folder."""
    other, texts = tmp_path / "other", tmp_path / "texts"
    other.mkdir()
    put(inbox, "a.wav")
    (other / "a.wav").write_bytes(b"another sound")
    async with open_watches(tmp_path) as watches:
        watches.jobs.error = WhisperdError("audio.corrupt", "caf\udce9 is damaged.", "Fetch it again.")
        for folder_of_recordings in (inbox, other):
            await watches.manager.add(str(folder_of_recordings), WatchChanges(output_dir=str(texts)))
        names = {"a.wav.error.txt", "a (2).wav.error.txt"}
        await until(lambda: {path.name for path in texts.glob("*")} == names)
        assert "caf\\xe9 is damaged." in (texts / "a.wav.error.txt").read_text()


async def test_a_disk_that_is_away_takes_no_reason_out_of_mind(tmp_path: Path, inbox: Path) -> None:
    """Where it was, an empty folder is left; what failed is tried again when it is back."""
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


async def test_a_watch_that_cannot_be_removed_stays(
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


async def test_what_ends_when_the_watch_is_removed_is_not_noted(tmp_path: Path, inbox: Path) -> None:
    seen = Seen("a.wav", Identity("1", 2, 3))
    async with open_watches(tmp_path) as watches:
        files, outputs = watches.store.files, watches.store.outputs
        preset = await watches.manager.add(str(inbox), WatchChanges())
        number = await files.put(preset.id, seen, None)
        assert await files.try_again([number]) == 1
        await files.update(number, status="working")  # perhaps by who was a moment faster
        assert await files.try_again([number]) == 0
        await watches.manager.remove(preset.id)
        wanted = Wanted([str(inbox / "a.txt")], "txt", "en", "hash")
        claimed, _ = await outputs.claim(number, [wanted])
        await outputs.replace(number, claimed)
        assert await outputs.of(number) == []
        with pytest.raises(WhisperdError) as caught:
            await files.put(preset.id, seen, None)
        assert caught.value.code == "watch.unknown"


async def test_what_is_not_wanted_any_more_is_not_done_again(tmp_path: Path, inbox: Path) -> None:
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


async def test_how_long_a_file_settles_is_as_the_settings_say_now(
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


async def test_a_folder_that_does_not_answer_is_looked_for_soon(
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


async def test_a_folder_that_is_back_is_watched_though_the_log_cannot_be_written(
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


async def test_a_folder_that_is_back_is_not_called_absent_while_it_is_looked_through(
    tmp_path: Path, inbox: Path, untold: None, monkeypatch: pytest.MonkeyPatch
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


async def test_a_look_that_finds_all_as_it_was_writes_nothing(
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


async def test_one_folder_that_does_not_answer_keeps_nobody_from_the_others(
    tmp_path: Path, inbox: Path, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()
    hung: list[str] = []
    retired: list[str] = []

    def folder_inode(path: str) -> str | None:
        if path == str(dead) and is_dead:
            hung.append(path)
            held.wait()
        return inode_of(path)

    async def retire(watches: list[str], _moment: str) -> None:
        retired.extend(watches)

    is_dead, inode_of = False, scanner.folder_inode
    monkeypatch.setattr(scanner, "folder_inode", folder_inode)
    monkeypatch.setattr(manager, "ROOT_INTERVAL_S", 0.01)
    monkeypatch.setattr(manager, "LOOK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(manager, "TOGETHER_S", 0.05)
    monkeypatch.setattr(manager, "RETIRE_INTERVAL_S", 0.0)
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
        monkeypatch.setattr(watches.store, "retire", retire)
        await until(lambda: retired)


async def test_what_was_corrected_stays_where_all_is_done_again(tmp_path: Path, inbox: Path) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        (inbox / "a.en.txt").write_text("corrected")
        await watches.manager.edit(preset.id, WatchChanges(outputs=("text", "srt")))
        for count in (2, 3):  # however often
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
        assert [output.format for output in outputs] == ["text", "srt"], "the first one stays the first"


async def test_what_was_corrected_goes_along_with_its_folder(tmp_path: Path, inbox: Path) -> None:
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


async def test_what_lies_beside_the_new_name_of_a_recording_is_not_its_text(
    tmp_path: Path, inbox: Path, untold: None
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
async def test_what_is_no_correction_of_this_recording_is_told_of(
    tmp_path: Path, inbox: Path, is_new: bool
) -> None:
    """A file of somebody else, or a corrected text of the recording that had this name before: however often
    it is tried again."""
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
async def test_what_is_no_folder_is_no_place_for_texts_or_recordings(
    tmp_path: Path, inbox: Path, place: str
) -> None:
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


async def test_what_removed_watches_have_written_is_forgotten_though_none_is_left(
    tmp_path: Path, inbox: Path
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        await watches.manager.remove(preset.id)
        long_ago = "UPDATE former_outputs SET since = '2000-01-01T00:00:00.000Z'"
        assert await watches.store.run(lambda connection: connection.execute(long_ago).rowcount) == 1
    async with open_watches(tmp_path) as watches:
        remain = "SELECT count(*) FROM former_outputs"
        with anyio.fail_after(LIMIT_S):
            while await watches.store.run(lambda connection: connection.execute(remain).fetchone()[0]):
                await anyio.sleep(0.005)
