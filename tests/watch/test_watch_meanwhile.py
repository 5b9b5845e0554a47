"""Changes while a watch is at work: files are renamed, edited and deleted, disks vanish and return."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
import pytest
from watched import InstantJobs, Watches, open_watches, put, until_done, until_noted_as_old

from toy_runtime import until
from whisperd.jobs.identity import check_path, input_changed_meanwhile
from whisperd.jobs.job import Job
from whisperd.jobs.segments import Segment, Transcript
from whisperd.rpc.errors import WhisperdError
from whisperd.watch import WatchChanges, discovery, scanner, scheduler
from whisperd.watch.file_table import FileTable
from whisperd.watch.folder import WatchFolder
from whisperd.watch.texts import Texts
from whisperd.watch.work import FileWork
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("is_edited", [False, True])
async def test_a_file_renamed_and_edited_during_its_job_is_done_once_per_content(
    tmp_path: Path, inbox: Path, is_edited: bool
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        watches.jobs.held.add("held")
        preset = await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        pending, taken = watches.folder(preset.id).pending, watches.jobs.taken
        await until(lambda: taken)
        (inbox / "a.wav").rename(inbox / "b.wav")
        await watches.manager.scan(preset.id)
        if is_edited:
            (inbox / "b.wav").write_bytes(b"another sound")
        os.utime(inbox / "b.wav", (1, 1))
        watches.folder(preset.id).request_scan()
        await until_noted_as_old(watches, preset.id, "b.wav")
        await until(lambda: len(pending.in_progress) == 1)
        row = await watches.store.files.at(preset.id, "b.wav")
        assert row is not None and (row.status, row.job) == ("working", taken[-1].id)
        taken[-1].over.set()
        await until_done(watches, preset.id)
        assert (inbox / "b.en.txt").exists() and len(taken) == 1 + is_edited


async def until_awaiting_followup(watches: Watches, watch: str) -> None:
    """Wait until a follow-up is held for a missing disk."""
    await until(
        lambda: watches.manager._work._awaiting_followup and not watches.folder(watch).pending.in_progress
    )


async def killed_before_followup(
    tmp_path: Path, inbox: Path, changes: WatchChanges, *, is_gone: bool = False
) -> str:
    """Return a watch whose daemon ended after it had written the texts of `a.wav`, before the follow-up.

    `is_gone`: it was about to remove the recording, or did so.
    """
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        await watches.manager.edit(preset.id, changes)
        row = await watches.store.files.at(preset.id, "a.wav")
        assert row is not None
        await watches.store.files.update(row.id, status="written")
        if is_gone:
            await watches.store.files.mark_gone([row.id])
    return preset.id


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_a_follow_up_waits_for_a_disk_that_is_missing_at_the_start(
    tmp_path: Path, inbox: Path, is_deleted: bool
) -> None:
    copied = ("cp", "{path}", str(tmp_path))
    changes = WatchChanges(after="delete") if is_deleted else WatchChanges(command=copied)
    watch = await killed_before_followup(tmp_path, inbox, changes)
    inbox.rename(tmp_path / "away")
    async with open_watches(tmp_path) as watches:
        await until_awaiting_followup(watches, watch)
        (tmp_path / "away").rename(inbox)
        watches.folder(watch).request_scan()
        await until(lambda: not (inbox / "a.wav").exists() if is_deleted else (tmp_path / "a.wav").exists())
        assert not watches.jobs.taken, "its texts exist already"


async def test_a_disk_that_hangs_at_the_start_does_not_undo_what_was_done(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = await killed_before_followup(tmp_path, inbox, WatchChanges(after="delete"), is_gone=True)

    async def hang(*_given: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as hanging:
        hanging.setattr(WatchFolder, "in_thread", hang)
        async with open_watches(tmp_path) as watches:
            await until_awaiting_followup(watches, watch)
            hanging.undo()
            await watches.manager.scan(watch)
            await until(lambda: not (inbox / "a.wav").exists())
            assert not watches.jobs.taken, "its texts exist already"


async def test_a_recording_that_was_removed_just_before_a_crash_is_not_waited_for(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the first scan is over before the daemon resumes its follow-up."""
    watch = await killed_before_followup(tmp_path, inbox, WatchChanges(after="delete"), is_gone=True)
    (inbox / "a.wav").unlink()
    is_scanned = anyio.Event()
    monkeypatch.setattr(Texts, "remove_leftovers", lambda *_given: is_scanned.wait())
    async with open_watches(tmp_path) as watches:
        await watches.manager.scan(watch)
        is_scanned.set()
        with anyio.fail_after(LIMIT_S):
            while (await watches.manager.log(watch, 1))[0]["event"] != "gone":
                await anyio.sleep(0.01)


def start_after_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the daemon resume a file only after its new name was found."""
    renamed, rename = anyio.Event(), FileWork.rename

    async def note(self: FileWork, *given: Any) -> None:
        await rename(self, *given)
        renamed.set()

    async def wait(*_given: object) -> None:
        await renamed.wait()

    monkeypatch.setattr(FileWork, "rename", note)
    monkeypatch.setattr(Texts, "remove_leftovers", wait)


@pytest.mark.parametrize("is_renamed", [True, False])
async def test_no_command_runs_for_a_recording_that_is_missing_at_the_start(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch, is_renamed: bool
) -> None:
    """Nor for the old name of a renamed one, even if the new name is found only then."""
    watch = await killed_before_followup(tmp_path, inbox, WatchChanges(command=("touch", "{path}.seen")))
    if is_renamed:
        (inbox / "a.wav").rename(inbox / "b.wav")
        start_after_rename(monkeypatch)
    else:
        (inbox / "a.wav").unlink()
    async with open_watches(tmp_path) as watches:

        async def last_event() -> tuple[str, str | None]:
            (line,) = await watches.manager.log(watch, 1)
            return line["event"], line["path"]

        if is_renamed:  # found by the first scan
            await until((inbox / "b.wav.seen").exists)
        with anyio.fail_after(LIMIT_S):
            while not is_renamed and await last_event() != ("gone", "a.wav"):
                await watches.manager.scan(watch)
        assert [path.name for path in inbox.glob("*.seen")] == (["b.wav.seen"] if is_renamed else [])
        assert not watches.jobs.taken, "its texts exist already"


@pytest.mark.parametrize("is_touched", [True, False])
async def test_a_recording_whose_disk_vanished_during_its_command_is_deleted_later(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch, is_touched: bool
) -> None:
    """Hashing it again may take too long, so that is only done if it was touched."""
    if not is_touched:
        monkeypatch.setattr(scanner, "hash_unchanged", lambda *_given: (True, None))
    put(inbox, "a.wav")
    away = tmp_path / "away"
    pulled = (
        "sh",
        "-c",
        f"[ -e '{tmp_path}/once' ] || {{ touch '{tmp_path}/once'; mv '{inbox}' '{away}'; }}",
    )
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges(command=pulled, after="delete"))
        await until_awaiting_followup(watches, preset.id)
        if is_touched:
            os.utime(away / "a.wav", (1, 1))
        away.rename(inbox)
        watches.folder(preset.id).request_scan()
        await until(lambda: inbox.exists() and not (inbox / "a.wav").exists())
        assert len(watches.jobs.taken) == 1, "its texts exist already"


@pytest.mark.parametrize("after", ["move", "delete"])
async def test_a_text_survives_a_crash_just_after_its_recording_was_removed(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch, after: Literal["move", "delete"]
) -> None:
    """Even if another recording has the name when the next daemon starts."""
    is_removed, ran = anyio.Event(), tmp_path / "ran"
    changes = WatchChanges(
        outputs=("json",),
        command=("sh", "-c", f"cat '{{path}}' >> '{ran}'"),
        after=after,
        move_to=str(tmp_path / "done") if after == "move" else None,
    )

    async def crash(*_given: object) -> None:
        is_removed.set()
        await anyio.sleep_forever()

    put(inbox, "a.wav")
    with monkeypatch.context() as crashing:
        crashing.setattr(FileTable, "mark_removed", crash)
        async with open_watches(tmp_path) as watches:
            await watches.manager.add(str(inbox), changes)
            await is_removed.wait()
    (inbox / "a.wav").write_text("; another sound")
    async with open_watches(tmp_path) as watches:
        transcript = await watches.jobs.transcript(None)  # type: ignore[arg-type]

        async def another(_job: object) -> Transcript:
            return msgspec.structs.replace(transcript, text="Said by another one.")

        monkeypatch.setattr(watches.jobs, "transcript", another)
        (folder,) = watches.folders()
        await until_done(watches, folder.preset.id, 2)
    assert sorted(path.name for path in inbox.iterdir()) == ["a.en.json", "a.wav.en.json"]
    assert "Said." in (inbox / "a.en.json").read_text()
    assert "Said by another one." in (inbox / "a.wav.en.json").read_text()
    assert ran.read_text() == "sound of a.wav; another sound"


async def test_a_deletion_is_logged_even_if_the_daemon_is_stopped_just_then(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mark_removed(self: FileTable, *given: Any) -> None:
        await mark_removed_now(self, *given)
        scope.cancel()

    put(inbox, "a.wav")
    mark_removed_now = FileTable.mark_removed
    monkeypatch.setattr(FileTable, "mark_removed", mark_removed)
    with anyio.CancelScope() as scope:
        async with open_watches(tmp_path) as watches:
            await watches.manager.add(str(inbox), WatchChanges(after="delete"))
            await anyio.sleep_forever()
    async with open_watches(tmp_path) as watches:
        (folder,) = watches.folders()
        events = [line["event"] for line in await watches.manager.log(folder.preset.id, 10)]
    assert events == ["done", "deleted"]


async def test_a_recording_is_moved_as_soon_as_that_is_possible(
    tmp_path: Path, inbox: Path, no_notifications: None
) -> None:
    """Until then it is tried again and again, but its command runs only once."""
    done, ran = tmp_path / "done", tmp_path / "ran"
    once = ("sh", "-c", f"echo ran >> '{ran}'")
    async with open_watches(tmp_path) as watches:
        manager = watches.manager
        changes = WatchChanges(after="move", move_to=str(done), command=once)
        preset = await manager.add(str(inbox), changes)
        await manager.scan(preset.id)
        done.write_text("in the way")
        put(inbox, "a.wav")
        await manager.scan(preset.id)
        await until_awaiting_followup(watches, preset.id)
        await manager.scan(preset.id)  # tries at once
        await until_awaiting_followup(watches, preset.id)
        assert (await manager.view(preset.id))["pending"] == 1
        done.unlink()
        await manager.scan(preset.id)
        await until((done / "a.wav").exists)
        await until_done(watches, preset.id)
        assert ran.read_text() == "ran\n"
        events = [line["event"] for line in await manager.log(preset.id, 10)]
        assert events == ["done", "command", "waiting", "moved away"]


async def test_a_recording_renamed_during_its_command_is_not_deleted(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "FILES_AT_ONCE", 1)
    put(inbox, "a.wav")
    waits = f"echo ran >> '{tmp_path}/ran'; until [ -e '{tmp_path}/go' ]; do sleep 0.01; done"
    async with open_watches(tmp_path) as watches:
        changes = WatchChanges(command=("sh", "-c", waits), after="delete")
        preset = await watches.manager.add(str(inbox), changes)
        await until((tmp_path / "ran").exists)
        (inbox / "a.wav").rename(inbox / "b.wav")
        await watches.manager.scan(preset.id)
        (tmp_path / "go").touch()
        await until(lambda: not watches.folder(preset.id).pending.in_progress)
        await watches.manager.scan(preset.id)
        await until_done(watches, preset.id)
        assert (tmp_path / "ran").read_text() == "ran\n" and len(watches.jobs.taken) == 1
        assert (inbox / "b.wav").exists()


async def test_retry_skips_deleted_and_excluded_files(tmp_path: Path, inbox: Path) -> None:
    put(inbox, "a.wav", "b.wav", "c.wav")
    async with open_watches(tmp_path) as watches:
        watches.jobs.error = WhisperdError(
            "audio.corrupt", "Nothing in it can be decoded.", "Fetch it again."
        )
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until(lambda: len(list(inbox.glob("*.error.txt"))) == 3)
        await until(lambda: not watches.folder(preset.id).pending.in_progress)
        (inbox / "a.wav").unlink()
        await watches.manager.edit(preset.id, WatchChanges(exclude=("b.wav",)))
        await watches.manager.scan(preset.id)
        for name in ("a.wav", "b.wav"):
            with pytest.raises(WhisperdError) as caught:
                await watches.manager.retry(preset.id, [name])
            assert caught.value.code == "watch.unknown_file"
        assert await watches.manager.retry(preset.id) == 1
        await until(lambda: len(watches.jobs.paths) == 4)
        row = await watches.store.files.at(preset.id, "b.wav")
        assert row is not None and row.status == "failed"


async def test_a_file_renamed_before_it_is_opened_is_retried_by_its_new_name(
    tmp_path: Path, inbox: Path, no_notifications: None
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        watches.jobs.held.add("held")
        preset = await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        await until(lambda: watches.jobs.taken)
        (inbox / "a.wav").rename(inbox / "b.wav")
        await watches.manager.scan(preset.id)
        watches.jobs.held.clear()
        watches.jobs.taken[0].error = WhisperdError("audio.not_found", "There is no such file.", "")
        watches.jobs.taken[0].over.set()
        await until((inbox / "b.en.txt").exists)


@pytest.mark.parametrize(("is_old", "slice_size"), [(True, 250), (False, 250), (False, 1)])
async def test_a_new_file_under_the_old_name_of_a_renamed_one_is_transcribed(
    tmp_path: Path,
    inbox: Path,
    no_notifications: None,
    monkeypatch: pytest.MonkeyPatch,
    is_old: bool,
    slice_size: int,
) -> None:
    monkeypatch.setattr(discovery, "SLICE", slice_size)
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        (inbox / "a.wav").rename(inbox / "b.wav")
        (inbox / "a.wav").write_bytes(b"another sound")
        if is_old:  # it needs no time to settle
            os.utime(inbox / "a.wav", (1, 1))
        await watches.manager.scan(preset.id)
        await until_done(watches, preset.id, 2)
        assert watches.jobs.paths == [str(inbox / "a.wav")] * 2
        assert (inbox / "a.en.txt").exists() and (inbox / "b.en.txt").exists()


@pytest.mark.parametrize(("is_bad", "has_begun"), [(False, False), (True, False), (False, True)])
async def test_the_result_of_another_file_that_got_the_name_before_the_job_read_it_is_not_used(
    tmp_path: Path, inbox: Path, no_notifications: None, is_bad: bool, has_begun: bool
) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        jobs = watches.jobs
        jobs.held.add("held")
        preset = await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        await until(lambda: jobs.taken)
        (inbox / "a.wav").rename(inbox / "b.wav")
        (inbox / "a.wav").write_bytes(b"another sound")
        await watches.manager.scan(preset.id)
        jobs.held.clear()
        if has_begun:
            jobs.taken[0].stamp = await check_path(str(inbox / "b.wav"))
            jobs.taken[0].warnings = (input_changed_meanwhile(jobs.paths[0], is_certain=True).to_wire(),)
        else:
            jobs.taken[0].stamp = await check_path(str(inbox / "a.wav"))
        if is_bad:
            jobs.taken[0].error = WhisperdError("audio.corrupt", "It is damaged.", "Fetch it again.")
        jobs.taken[0].over.set()
        await until_done(watches, preset.id, 2)
        assert sorted(jobs.paths) == [str(inbox / name) for name in ("a.wav", "a.wav", "b.wav")]


async def test_a_name_that_differs_only_in_case_is_not_an_alias(tmp_path: Path, inbox: Path) -> None:
    """A link makes two names refer to one file, as a case-insensitive disk does."""
    put(inbox, "talk.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        (inbox / "Talk.wav").symlink_to("talk.wav")
        seen = scanner.look_at(str(inbox), "Talk.wav")
        assert seen is not None
        await watches.manager._work.take(watches.folder(preset.id), seen)
        assert watches.jobs.paths == [str(inbox / "talk.wav"), str(inbox / "Talk.wav")]


async def test_a_retry_follows_a_name_that_changes_only_in_case(
    tmp_path: Path, inbox: Path, no_notifications: None
) -> None:
    """On a case-insensitive disk, the old name still leads to the file."""
    put(inbox, "talk.wav")
    async with open_watches(tmp_path, retry_delay_s=3600) as watches:
        watches.jobs.error = WhisperdError("audio.not_readable", "It cannot be read.", "Wait.")
        preset = await watches.manager.add(str(inbox), WatchChanges())
        folder = watches.folder(preset.id)
        await until(lambda: watches.jobs.taken and not folder.pending.in_progress)
        (inbox / "talk.wav").rename(inbox / "Talk.wav")
        (inbox / "talk.wav").symlink_to("Talk.wav")
        await watches.manager.scan(preset.id)
        assert folder.pending.waiting == 1


async def test_waiting_for_a_folder_uses_up_no_attempts(tmp_path: Path, inbox: Path) -> None:
    put(inbox, "a.wav")
    place = {"path": "", "folder": str(inbox / "below")}
    not_writable = WhisperdError("output.folder_not_writable", "It is read-only.", "Wait.", place)
    async with open_watches(tmp_path, retry_delay_s=3600) as watches:
        files, fails = watches.store.files, watches.jobs
        fails.error = not_writable
        preset = await watches.manager.add(str(inbox), WatchChanges())
        folder = watches.folder(preset.id)
        await until(lambda: fails.taken and not folder.pending.in_progress)
        row = await files.at(preset.id, "a.wav")
        assert row is not None
        await files.update(row.id, attempts=10, status="lost")
        fails.error = WhisperdError("audio.not_readable", "It cannot be read.", "Wait.")
        folder.request_scan()
        await until(lambda: len(fails.taken) == 2 and not folder.pending.in_progress)
        row = await files.at(preset.id, "a.wav")
        assert row is not None and (row.status, row.attempts) == ("retrying", 1)


async def test_a_requested_scan_ends_the_backoff(tmp_path: Path, inbox: Path) -> None:
    put(inbox, "a.wav")
    async with open_watches(tmp_path, retry_delay_s=3600) as watches:
        place = {"path": "", "folder": str(inbox)}
        watches.jobs.error = WhisperdError("output.folder_not_writable", "It is read-only.", "Wait.", place)
        preset = await watches.manager.add(str(inbox), WatchChanges())
        folder = watches.folder(preset.id)
        await until(lambda: folder.backoff.for_s and not folder.pending.in_progress)
        watches.jobs.error = None
        await watches.manager.scan(preset.id)
        await until_done(watches, preset.id)


async def test_a_touched_file_that_cannot_be_read_at_first_keeps_its_corrected_text(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hash_unchanged(*given: Any) -> scanner.Inspected:
        if failures:
            raise failures.pop()
        return read(*given)

    read, failures = scanner.hash_unchanged, [OSError("It is busy.")]
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        (inbox / "a.en.txt").write_text("corrected")
        monkeypatch.setattr(scanner, "hash_unchanged", hash_unchanged)
        os.utime(inbox / "a.wav", (1, 1))
        watches.folder(preset.id).request_scan()
        await until(lambda: len(watches.jobs.paths) == 2)
        await until_done(watches, preset.id)
        assert (inbox / "a.en.txt").read_text() == "corrected"


async def test_a_touched_file_that_cannot_be_hashed_in_time_is_transcribed_again(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner, "hash_unchanged", lambda *_given: (True, None))
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        os.utime(inbox / "a.wav", (1, 1))
        watches.folder(preset.id).request_scan()
        await until(lambda: len(watches.jobs.paths) == 2)


async def test_a_reported_deletion_soon_cancels_the_job(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "RENAMED_IN_S", 0.01)
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        watches.jobs.held.add("held")
        preset = await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        await until(lambda: watches.jobs.taken)
        await watches.manager.scan(preset.id)
        (inbox / "a.wav").unlink()
        watches.folder(preset.id).hint({str(inbox / "a.wav"): False})
        await until(watches.jobs.taken[0].over.is_set)


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_deleted_file_is_cancelled_and_a_renamed_one_is_not(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    """In whatever order the changes are reported."""
    monkeypatch.setattr(discovery, "SLICE", 1)
    monkeypatch.setattr(discovery, "RENAMED_IN_S", math.inf)
    put(inbox, "a.wav", "b.wav")
    async with open_watches(tmp_path) as watches:
        watches.jobs.held.add("held")
        preset = await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        await until(lambda: len(watches.jobs.taken) == 2)
        await watches.manager.scan(preset.id)
        renamed, gone = sorted(watches.jobs.taken, key=lambda job: job.path)
        (inbox / "a.wav").rename(inbox / "c.wav")
        (inbox / "b.wav").unlink()
        if is_told:
            told = {str(inbox / name): False for name in ("a.wav", "b.wav", "c.wav")}
            watches.folder(preset.id).hint(told)
        else:
            await watches.manager.scan(preset.id)
        await until_gone(watches, preset.id, "b.wav")
        assert not gone.over.is_set()
        await watches.manager.scan(preset.id)
        assert gone.over.is_set() and not renamed.over.is_set()
        renamed.over.set()
        await until((inbox / "c.en.txt").exists)


async def until_gone(watches: Watches, watch: str, path: str) -> None:
    with anyio.fail_after(LIMIT_S):
        while (row := await watches.store.files.at(watch, path)) is None or row.gone is None:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("looks", [1, 2])
async def test_a_file_with_an_ignored_name_for_a_moment_is_still_transcribed(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """By its running job, if it is back before the second scan."""
    monkeypatch.setattr(discovery, "RENAMED_IN_S", math.inf)
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        cancelled: list[str] = []
        monkeypatch.setattr(watches.jobs, "cancel", cancelled.append)  # the job takes a moment to end
        watches.jobs.held.add("held")
        preset = await watches.manager.add(str(inbox), WatchChanges(profile="held"))
        await until(lambda: watches.jobs.taken)
        (job,) = watches.jobs.taken
        (inbox / "a.wav").rename(inbox / "a.wav.part")
        watches.folder(preset.id).hint({str(inbox / "a.wav"): False})
        await until_gone(watches, preset.id, "a.wav")
        if looks == 2:
            await watches.manager.scan(preset.id)
        assert cancelled == [job.id] * (looks - 1)
        (inbox / "a.wav.part").rename(inbox / "b.wav")
        watches.jobs.held.clear()
        await watches.manager.scan(preset.id)
        if cancelled:
            job.error = WhisperdError("job.cancelled", "The job was cancelled.", "Submit it again.")
        job.over.set()
        await until_done(watches, preset.id)
        assert (inbox / "b.en.txt").exists() and len(watches.jobs.taken) == looks


async def test_files_on_a_disk_with_another_device_number_are_not_read_again(
    tmp_path: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may get another one whenever it is mounted; on btrfs and NFS, also after each start."""
    read: list[str] = []
    put(inbox, "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        await watches.store.run(
            lambda connection: connection.execute(
                "UPDATE watch_files SET inode = 'ffff' || substr(inode, instr(inode, ':'))"
            )
        )
    monkeypatch.setattr(scanner, "hash_unchanged", lambda path, *_given: read.append(path))
    async with open_watches(tmp_path) as watches:
        await watches.manager.scan(preset.id)
        (inbox / "a.wav").rename(inbox / "b.wav")
        await watches.manager.scan(preset.id)
        await until_done(watches, preset.id)
        assert (inbox / "b.en.txt").exists() and not (inbox / "a.en.txt").exists()
    assert not read


@pytest.mark.parametrize("beside", ["new", "elsewhere"])
async def test_a_name_used_again_in_a_folder_that_is_renamed_then(
    tmp_path: Path, inbox: Path, no_notifications: None, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    """The text of the renamed recording goes along with the folder, under the name that is used again."""

    async def transcript(jobs: InstantJobs, job: Job) -> Transcript:
        segment = Segment(id=0, seek=0, start=0.0, end=1.0, text=contents[job.id])
        return msgspec.structs.replace(await said(jobs, job), segments=(segment,))

    async def submit(jobs: InstantJobs, *given: Any) -> Job:
        job = await submitted(jobs, *given)
        contents[job.id] = Path(job.path).read_text()
        return job

    contents: dict[str, str] = {}
    said, submitted = InstantJobs.transcript, InstantJobs.submit
    monkeypatch.setattr(InstantJobs, "transcript", transcript)
    monkeypatch.setattr(InstantJobs, "submit", submit)
    for folder in ("old", "elsewhere"):
        (inbox / folder).mkdir()
    put(inbox / "old", "a.wav")
    async with open_watches(tmp_path) as watches:
        preset = await watches.manager.add(str(inbox), WatchChanges())
        await until_done(watches, preset.id)
        renamed = inbox / ("old" if beside == "new" else beside) / "b.wav"
        (inbox / "old" / "a.wav").rename(renamed)
        put(inbox / "old", "a.wav")
        (inbox / "old" / "a.wav").write_text("another sound")
        (inbox / "old").rename(inbox / "new")
        await watches.manager.scan(preset.id)
        await until_done(watches, preset.id, 2)
    assert (inbox / "new" / "a.en.txt").read_text().strip() == "another sound"
    assert (inbox / beside / "b.en.txt").read_text().strip() == "sound of a.wav"
    assert not list(inbox.rglob("*.error.txt"))
