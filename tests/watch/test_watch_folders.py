"""Watch folders with the real daemon and the kernel's own notifications."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whisperd.client import Client
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon, batches, until, write_tone

pytestmark = pytest.mark.real  # the decoder's bundle

SETTINGS = "[watch]\nsettle_s = 0.3\nretry_delay_s = 0.2\n"

Toy = Callable[..., str]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def model(toy: Toy) -> str:
    return toy("plain")


@pytest.fixture
def watching(make_daemon: Callable[..., RunningDaemon], model: str) -> RunningDaemon:
    daemon = make_daemon()
    daemon.settings(SETTINGS)
    daemon.start()
    daemon.make_default(model)
    return daemon


def add(daemon: RunningDaemon, folder: Path, **fields: Any) -> dict[str, Any]:
    options = {"vad": False, "language": "en", **fields.pop("options", {})}
    with daemon.connect() as client:
        return client.watch.add(folder, options=options, **fields)


def show(daemon: RunningDaemon, folder: Path) -> dict[str, Any]:
    with daemon.connect() as client:
        return client.watch.show(str(folder))


def log(daemon: RunningDaemon, folder: Path) -> list[dict[str, Any]]:
    with daemon.connect() as client:
        return client.watch.log(str(folder), 5000)


def events(daemon: RunningDaemon, folder: Path, event: str) -> list[str]:
    return [line["path"] for line in log(daemon, folder) if line["event"] == event]


def is_idle(daemon: RunningDaemon, folder: Path, done: int) -> bool:
    watch = show(daemon, folder)
    return watch["done"] == done and watch["pending"] == 0 and watch["status"] == "watching"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def has_text(path: Path, seconds: float) -> bool:
    return path.exists() and path.read_text() == f"transcribe {seconds:.2f} s\n"


def computed(model: str) -> list[float]:
    return sorted(duration for batch in batches(model) for duration in batch["durations"])


def test_existing_and_new_files_are_transcribed_once(
    watching: RunningDaemon, inbox: Path, model: str
) -> None:
    (inbox / "deep" / "er").mkdir(parents=True)
    write_tone(inbox / "one.wav", 1.0)
    write_tone(inbox / "deep" / "er" / "two.wav", 2.0)
    (inbox / "notes.txt").write_text("mine")
    add(watching, inbox, outputs=["text", "srt"])
    until(lambda: is_idle(watching, inbox, 2), "existing files to be done")
    write_tone(inbox / "three.wav", 3.0)
    (inbox / "new").mkdir()
    write_tone(inbox / "new" / "four.wav", 4.0)
    until(lambda: is_idle(watching, inbox, 4), "new files to be done")
    assert has_text(inbox / "one.en.txt", 1.0)
    assert has_text(inbox / "deep" / "er" / "two.en.txt", 2.0)
    assert has_text(inbox / "new" / "four.en.txt", 4.0)
    assert (inbox / "three.en.srt").read_text().startswith("1\n00:00:00,000 -->")
    assert (inbox / "notes.txt").read_text() == "mine"
    assert computed(model) == [1.0, 2.0, 3.0, 4.0]
    with watching.connect() as client:
        client.watch.scan(str(inbox))
        jobs = client.jobs.list()
    assert len(jobs) == 4 and {job["priority"] for job in jobs} == {"bulk"}
    assert all(job["detached"] for job in jobs)


def test_texts_follow_renames_without_new_work(watching: RunningDaemon, inbox: Path, model: str) -> None:
    (inbox / "old").mkdir()
    write_tone(inbox / "old" / "a.wav", 1.0)
    write_tone(inbox / "b.wav", 2.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 2))
    (inbox / "b.wav").rename(inbox / "c.wav")
    (inbox / "old").rename(inbox / "new")
    until(lambda: has_text(inbox / "c.en.txt", 2.0), "the text to follow")
    until(lambda: sorted(events(watching, inbox, "moved")) == ["c.wav", "new/a.wav"])
    assert has_text(inbox / "new" / "a.en.txt", 1.0)
    assert not (inbox / "b.en.txt").exists()
    assert computed(model) == [1.0, 2.0]
    assert len(events(watching, inbox, "done")) == 2


def test_edited_files_are_new_work_and_copies_are_answered_from_the_store(
    watching: RunningDaemon, inbox: Path, model: str
) -> None:
    write_tone(inbox / "a.wav", 1.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 1))
    shutil.copy(inbox / "a.wav", inbox / "copy.wav")
    until(lambda: has_text(inbox / "copy.en.txt", 1.0))
    assert computed(model) == [1.0]
    write_tone(inbox / "a.wav", 2.0)
    until(lambda: has_text(inbox / "a.en.txt", 2.0))
    until(lambda: is_idle(watching, inbox, 2))
    os.utime(inbox / "copy.wav")
    with watching.connect() as client:
        client.watch.scan(str(inbox))
    until(lambda: is_idle(watching, inbox, 2))
    assert computed(model) == [1.0, 2.0]
    assert len(events(watching, inbox, "done")) == 3, "a touched file is not done again"


def test_files_with_partial_names_wait_until_they_are_renamed(watching: RunningDaemon, inbox: Path) -> None:
    add(watching, inbox)
    part = write_tone(inbox / "talk.wav.part", 1.0)
    (inbox / "empty.wav").touch()
    write_tone(inbox / ".hidden.wav", 1.0)
    write_tone(inbox / "whole.wav", 2.0)
    until(lambda: has_text(inbox / "whole.en.txt", 2.0))
    part.rename(inbox / "talk.wav")
    until(lambda: has_text(inbox / "talk.en.txt", 1.0))
    until(lambda: is_idle(watching, inbox, 2))
    write_tone(inbox / "empty.wav", 3.0)
    until(lambda: has_text(inbox / "empty.en.txt", 3.0), "the placeholder to get its content")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports writers of a file")
def test_a_stalled_copy_is_not_taken_while_it_is_open(watching: RunningDaemon, inbox: Path) -> None:
    whole = write_tone(inbox.parent / "whole.wav", 3.0).read_bytes()
    add(watching, inbox)
    with (inbox / "slow.wav").open("wb") as slow:
        slow.write(whole[:50_000])
        slow.flush()
        write_tone(inbox / "other.wav", 1.0)
        until(lambda: has_text(inbox / "other.en.txt", 1.0))
        write_tone(inbox / "another.wav", 2.0)
        until(lambda: has_text(inbox / "another.en.txt", 2.0))
        until(lambda: len(events(watching, inbox, "done")) == 2, "both files to be logged")
        assert events(watching, inbox, "done") == ["other.wav", "another.wav"]
        slow.write(whole[50_000:])
    until(lambda: has_text(inbox / "slow.en.txt", 3.0))
    assert events(watching, inbox, "failed") == []


def test_foreign_files_are_overwritten_only_on_request(watching: RunningDaemon, inbox: Path) -> None:
    (inbox / "a.en.txt").write_text("mine")
    write_tone(inbox / "a.wav", 1.0)
    write_tone(inbox / "b.wav", 2.0)
    add(watching, inbox)
    until(lambda: show(watching, inbox)["failed"] == 1 and has_text(inbox / "b.en.txt", 2.0))
    assert (inbox / "a.en.txt").read_text() == "mine"
    assert "output.exists" in (inbox / "a.wav.error.txt").read_text()
    with watching.connect() as client:
        client.watch.edit(str(inbox), overwrite=True)
        assert client.watch.retry(str(inbox)) == {"retried": 1}
    until(lambda: has_text(inbox / "a.en.txt", 1.0))
    until(lambda: is_idle(watching, inbox, 2))
    assert not (inbox / "a.wav.error.txt").exists(), "the error file outlived its cause"


def test_a_text_corrected_by_hand_is_kept(watching: RunningDaemon, inbox: Path) -> None:
    write_tone(inbox / "a.wav", 1.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 1))
    (inbox / "a.en.txt").write_text("corrected")
    write_tone(inbox / "a.wav", 2.0)
    until(lambda: show(watching, inbox)["failed"] == 1)
    assert (inbox / "a.en.txt").read_text() == "corrected"


def test_two_recordings_with_one_stem_have_separate_texts(watching: RunningDaemon, inbox: Path) -> None:
    write_tone(inbox / "a.wav", 1.0)
    write_tone(inbox / "a.wave", 2.0)
    add(watching, inbox, include=["*.wav*"])
    until(lambda: is_idle(watching, inbox, 2))
    texts = {path.read_text() for path in inbox.glob("*.txt")}
    assert texts == {"transcribe 1.00 s\n", "transcribe 2.00 s\n"}


def test_a_renamed_recording_does_not_take_an_equal_text_of_another(
    watching: RunningDaemon, inbox: Path
) -> None:
    write_tone(inbox / "a.wav", 1.0)
    write_tone(inbox / "x.wav", 1.0, hz=220.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 2))
    (inbox / "x.wav").rename(inbox / "a.flac")
    until(lambda: has_text(inbox / "a.flac.en.txt", 1.0), "the text to follow")
    write_tone(inbox / "a.wav", 2.0)
    until(lambda: has_text(inbox / "a.en.txt", 2.0))
    assert names(inbox) == ["a.en.txt", "a.flac", "a.flac.en.txt", "a.wav"]


def test_a_recording_that_returns_without_its_text_gets_one(
    watching: RunningDaemon, inbox: Path, tmp_path: Path, model: str
) -> None:
    for name in ("copied.wav", "moved.wav"):
        write_tone(inbox / name, 1.0 if name == "moved.wav" else 2.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 2))
    shutil.copy(inbox / "copied.wav", tmp_path)
    (inbox / "copied.wav").unlink()
    (inbox / "moved.wav").rename(tmp_path / "moved.wav")
    for text in inbox.glob("*.txt"):
        text.unlink()
    with watching.connect() as client:
        client.watch.scan(str(inbox))
    for name in ("copied.wav", "moved.wav"):
        (tmp_path / name).rename(inbox / name)
    until(lambda: has_text(inbox / "copied.en.txt", 2.0) and has_text(inbox / "moved.en.txt", 1.0))
    assert computed(model) == [1.0, 2.0]


def test_texts_are_never_taken_for_recordings(watching: RunningDaemon, inbox: Path) -> None:
    write_tone(inbox / "a.wav", 1.0)
    (inbox / "b.dat").write_text("no sound")
    (inbox / "c.srt").write_text("somebody's")
    add(watching, inbox, include=["*"], name="{stem}.{lang}")

    def is_done() -> bool:
        watch = show(watching, inbox)
        return (watch["done"], watch["failed"], watch["pending"]) == (1, 1, 0)

    until(is_done)
    for path in inbox.iterdir():
        os.utime(path, (1, 1))  # so that any file taken for a recording has settled
    with watching.connect() as client:
        client.watch.scan(str(inbox))
    until(is_done)
    assert names(inbox) == ["a.en", "a.wav", "b.dat", "b.dat.error.txt", "c.srt"]
    assert set(events(watching, inbox, "failed")) == {"b.dat"}


def test_a_folder_inside_a_watched_one_may_be_watched_too(
    watching: RunningDaemon, inbox: Path, tmp_path: Path
) -> None:
    (inbox / "inner").mkdir()
    write_tone(inbox / "inner" / "a.wav", 1.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 1))
    add(watching, inbox / "inner")
    until(lambda: is_idle(watching, inbox / "inner", 1))
    assert names(inbox / "inner") == ["a.en.txt", "a.wav"]
    (tmp_path / "link").symlink_to(inbox)
    with pytest.raises(WhisperdError) as refused:
        add(watching, tmp_path / "link")
    assert refused.value.code == "watch.exists"


def test_a_bad_file_does_not_delay_others(watching: RunningDaemon, inbox: Path) -> None:
    (inbox / "bad.mp3").write_bytes(b"this is no music" * 100)
    write_tone(inbox / "good.wav", 1.0)
    add(watching, inbox)
    until(lambda: has_text(inbox / "good.en.txt", 1.0))
    until(lambda: show(watching, inbox)["failed"] == 1)
    assert "whisperctl watch retry" in (inbox / "bad.mp3.error.txt").read_text()
    (line,) = [line for line in log(watching, inbox) if line["event"] == "failed"]
    assert line["path"] == "bad.mp3"
    write_tone(inbox / "bad.mp3", 2.0)  # the name does not matter
    until(lambda: has_text(inbox / "bad.en.txt", 2.0))
    until(lambda: not (inbox / "bad.mp3.error.txt").exists())


def test_odd_names(watching: RunningDaemon, inbox: Path) -> None:
    names = [
        "new\nline.wav",
        "sp ace & 'quote'.wav",
        "x" * 251 + ".wav",
        "\u00e4\u4e2d\U0001f600.wav",
        "-rf.wav",
    ]
    for place, name in enumerate(names):
        write_tone(inbox / name, 1.0 + place / 10)
    write_tone(inbox / os.fsdecode(b"not \xff utf8.wav"), 2.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 6))
    assert has_text(inbox / "new\nline.en.txt", 1.0)
    assert has_text(inbox / os.fsdecode(b"not \xff utf8.en.txt"), 2.0)
    assert len(list(inbox.glob("*.txt"))) == 6
    write_tone(inbox / os.fsdecode(b"another \xff.wav"), 3.0)
    until(lambda: is_idle(watching, inbox, 7), "the file whose name the watcher cannot report")


def test_link_loops_end(watching: RunningDaemon, inbox: Path, model: str) -> None:
    (inbox / "a").mkdir()
    write_tone(inbox / "a" / "x.wav", 1.0)
    (inbox / "a" / "loop").symlink_to(inbox)
    (inbox / "b").symlink_to("a")
    (inbox / "broken").symlink_to("nowhere")
    outside = inbox.parent / "outside"
    outside.mkdir()
    write_tone(outside / "y.wav", 2.0)
    (inbox / "out").symlink_to(outside)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 2))
    write_tone(inbox / "a" / "z.wav", 3.0)
    until(lambda: is_idle(watching, inbox, 3))
    assert has_text(outside / "y.en.txt", 2.0)
    assert computed(model) == [1.0, 2.0, 3.0]


def test_a_folder_that_vanishes_is_watched_again_when_it_is_back(
    watching: RunningDaemon, inbox: Path, model: str
) -> None:
    write_tone(inbox / "a.wav", 1.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 1))
    away = inbox.rename(inbox.with_name("away"))
    until(lambda: show(watching, inbox)["status"] == "absent")
    write_tone(away / "b.wav", 2.0)
    away.rename(inbox)
    with watching.connect() as client:
        client.watch.scan(str(inbox))  # sooner than automatically
    until(lambda: is_idle(watching, inbox, 2))
    write_tone(inbox / "c.wav", 3.0)
    until(lambda: is_idle(watching, inbox, 3), "notifications to work again")
    assert computed(model) == [1.0, 2.0, 3.0]
    assert [line["event"] for line in log(watching, inbox)].count("back") == 1


def test_pause_and_resume(watching: RunningDaemon, inbox: Path) -> None:
    add(watching, inbox)
    with watching.connect() as client:
        assert client.watch.pause(str(inbox))["paused"]
        write_tone(inbox / "a.wav", 1.0)
        until(lambda: client.watch.show(str(inbox))["pending"] == 1)
        client.watch.scan(str(inbox))
        assert client.watch.show(str(inbox))["status"] == "paused"
        assert client.jobs.list() == []
        client.watch.resume(str(inbox))
    until(lambda: has_text(inbox / "a.en.txt", 1.0))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_next_daemon_resumes_the_work_of_a_killed_one(
    watching: RunningDaemon, inbox: Path, model: str
) -> None:
    (Path(model) / "hold").touch()
    for number in range(4):
        write_tone(inbox / f"{number}.wav", 1.0 + number)
    add(watching, inbox)
    until(lambda: show(watching, inbox)["working"] == 4 and batches(model))
    watching.signal(signal.SIGKILL)
    watching.wait()
    write_tone(inbox / "later.wav", 9.0)
    (inbox / "3.wav").rename(inbox / "three.wav")
    (Path(model) / "hold").unlink()
    watching.start()
    until(lambda: is_idle(watching, inbox, 5))
    assert has_text(inbox / "three.en.txt", 4.0)
    assert has_text(inbox / "later.en.txt", 9.0)
    assert len(list(inbox.glob("*.txt"))) == 5
    assert [path for path in inbox.iterdir() if path.name.startswith(".")] == []


def test_a_watch_that_is_added_again_knows_its_texts(watching: RunningDaemon, inbox: Path) -> None:
    write_tone(inbox / "a.wav", 1.0)
    write_tone(inbox / "b.wav", 2.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 2))
    (inbox / "b.en.txt").write_text("corrected")
    with watching.connect() as client:
        client.watch.remove(str(inbox))
    add(watching, inbox, options={"task": "translate"})
    until(lambda: (inbox / "a.en.txt").read_text() == "translate 1.00 s\n", "another text")
    until((inbox / "b.wav.error.txt").exists, "the corrected text to be reported")
    assert (inbox / "b.en.txt").read_text() == "corrected"
    assert not (inbox / "a.wav.error.txt").exists()


def test_a_removed_watch_keeps_its_texts(watching: RunningDaemon, inbox: Path, client: Client) -> None:
    write_tone(inbox / "a.wav", 1.0)
    add(watching, inbox)
    until(lambda: is_idle(watching, inbox, 1))
    with pytest.raises(WhisperdError, match="already"):
        add(watching, inbox)
    client.watch.remove(str(inbox))
    assert client.watch.list() == []
    assert has_text(inbox / "a.en.txt", 1.0)
    with pytest.raises(WhisperdError) as caught:
        client.watch.show(str(inbox))
    assert caught.value.code == "watch.unknown"


@pytest.fixture
def client(watching: RunningDaemon) -> Any:
    with watching.connect() as client:
        yield client
