"""Follow-ups after the texts, and failures, with the real daemon."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from whisperd.cli import main
from whisperd.client import Client
from whisperd.rpc.errors import WhisperdError
from whisperd.watch import scanner
from whisperd.watch.command import command_words
from whisperd.watch.names import Selection
from whisperd_testing import RunningDaemon, until, write_tone

SETTINGS = "[watch]\nsettle_s = 0.3\nretry_delay_s = 0.2\ncommand_timeout_s = 30\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return a client of one daemon for all tests in this module."""
    from whisperd_testing import toy_model

    folder = tmp_path_factory.mktemp("daemon")
    daemon = RunningDaemon(folder)
    daemon.settings(SETTINGS)
    daemon.start()
    daemon.make_default(toy_model(folder / "toy"))
    with daemon.connect() as client:
        yield client
    daemon.close()


@pytest.fixture
def inbox(tmp_path: Path, client: Client) -> Iterator[Path]:
    folder = tmp_path / "inbox"
    folder.mkdir()
    yield folder
    if any(watch["path"] == str(folder) for watch in client.watch.list()):
        client.watch.remove(str(folder))


def add(client: Client, folder: Path, **fields: Any) -> dict[str, Any]:
    return client.watch.add(folder, options={"vad": False, "language": "en"}, **fields)


def events(client: Client, folder: Path | str) -> list[str]:
    return [line["event"] for line in client.watch.log(str(folder), 5000)]


def finish(client: Client, folder: Path | str, event: str, count: int = 1) -> None:
    until(lambda: events(client, folder).count(event) == count, f"{count} times {event}")


def test_placeholders_of_a_command() -> None:
    values = {"path": "/a/it's; rm -rf {name}.wav", "stem": "it's"}
    assert command_words(["echo", "{path}", "-{stem}-", "{", "{x}", "}{stem"], values) == [
        "echo",
        "/a/it's; rm -rf {name}.wav",
        "-it's-",
        "{",
        "{x}",
        "}{stem",
    ]


@pytest.mark.real
def test_recordings_are_moved_once_they_are_done(client: Client, inbox: Path) -> None:
    done = inbox / "done"
    write_tone(inbox / "a.wav", 1.0)
    (inbox / "sub").mkdir()
    write_tone(inbox / "sub" / "b.wav", 2.0)
    add(client, inbox, after="move", move_to=done)
    finish(client, inbox, "moved away", 2)
    assert (done / "a.wav").exists() and (done / "sub" / "b.wav").exists()
    assert not (inbox / "a.wav").exists()
    assert (inbox / "a.en.txt").read_text() == "transcribe 1.00 s\n"
    write_tone(inbox / "a.wav", 3.0)  # another recording with the same name
    finish(client, inbox, "moved away", 3)
    assert (done / "a (2).wav").exists()
    assert (inbox / "a.en.txt").read_text() == "transcribe 1.00 s\n", (
        "the text of the first recording was replaced"
    )
    assert (inbox / "a.wav.en.txt").read_text() == "transcribe 3.00 s\n"
    client.watch.scan(str(inbox))
    assert events(client, inbox).count("done") == 3, "moved recordings were transcribed again"


@pytest.mark.real
def test_retry_all_transcribes_finished_files_again(
    client: Client, inbox: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ctl(*words: str) -> tuple[int, str, str]:
        status = main.run(["--socket", client.daemon.status()["socket"], "watch", *words])
        return status, *capsys.readouterr()

    write_tone(inbox / "a.wav", 1.0)
    write_tone(inbox / "b.wav", 1.0)
    add(client, inbox)
    finish(client, inbox, "done", 2)
    (inbox / "b.wav").unlink()
    client.watch.scan(str(inbox))
    status, out, err = ctl("edit", str(inbox), "--output", "srt")
    assert (status, out) == (0, f"the watch folder {inbox} is changed\n")
    assert (
        "Texts that are already written stay unchanged" in err
        and f"`whisperctl watch retry {shlex.quote(str(inbox))} --all`" in err
    )
    assert ctl("edit", str(inbox), "--no-notify")[2] == ""
    assert ctl("retry", str(inbox)) == (0, "retrying 0 files\n", "")
    assert ctl("retry", str(inbox), "--all") == (0, "retrying 1 file\n", "")
    finish(client, inbox, "done", 3)
    assert "transcribe 1.00 s" in (inbox / "a.en.srt").read_text()
    assert not (inbox / "a.en.txt").exists(), "an unchanged text was not replaced"
    assert ctl("retry", str(inbox), "--all", "a.wav")[0] == 2
    with pytest.raises(WhisperdError) as caught:
        client.watch.retry(str(inbox), ["a.wav"], all=True)
    assert caught.value.code == "rpc.invalid_params"


@pytest.mark.real
@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX program")
def test_a_command_runs_before_a_recording_is_deleted(client: Client, inbox: Path, tmp_path: Path) -> None:
    write_tone(inbox / "it's $HOME.wav", 1.0)
    kept = tmp_path / "kept"
    kept.mkdir()
    add(client, inbox, after="delete", command=["cp", "{path}", "{output}", str(kept)])
    finish(client, inbox, "deleted")
    assert sorted(path.name for path in kept.iterdir()) == ["it's $HOME.en.txt", "it's $HOME.wav"]
    assert not (inbox / "it's $HOME.wav").exists()


@pytest.mark.real
@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX program")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["false"], "failed (exit status 1)"),
        (["sh", "-c", "kill -9 $$"], "failed (signal SIGKILL)"),
        (["no-such-program"], "could not be started"),
    ],
)
def test_a_recording_stays_if_its_command_fails(
    client: Client, inbox: Path, command: list[str], told: str
) -> None:
    write_tone(inbox / "a.wav", 1.0)
    add(client, inbox, after="delete", command=command)
    finish(client, inbox, "stays")
    assert (inbox / "a.wav").exists()
    (line,) = [line for line in client.watch.log(str(inbox)) if line["event"] == "command"]
    assert told in line["message"]


@pytest.mark.real
def test_texts_go_into_another_folder(client: Client, inbox: Path, tmp_path: Path) -> None:
    (inbox / "sub").mkdir()
    write_tone(inbox / "sub" / "a.wav", 1.0)
    texts = tmp_path / "texts"
    add(client, inbox, output_dir=texts, name="{name}-{format}.{ext}", outputs=["json", "verbose_json"])
    finish(client, inbox, "done")
    assert sorted(path.name for path in (texts / "sub").iterdir()) == [
        "a.wav-json.json",
        "a.wav-verbose_json.json",
    ]
    assert sorted(path.name for path in (inbox / "sub").iterdir()) == ["a.wav"]


@pytest.mark.real
def test_texts_wait_for_their_folder_to_be_writable(client: Client, inbox: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    add(client, inbox, output_dir=texts)
    texts.write_text("in the way")  # from now on
    for number in range(3):
        write_tone(inbox / f"{number}.wav", 1.0 + number)
    shown: dict[str, Any] = {}
    until(lambda: shown.update(client.watch.show(str(inbox))) or shown["status"] == "waiting")
    assert shown["failed"] == 0 and "texts" in shown["reason"]
    assert shown["error"]["code"] == "output.folder_not_writable"
    texts.unlink()
    finish(client, inbox, "done", 3)
    assert len(list(texts.glob("*.en.txt"))) == 3
    assert events(client, inbox).count("waiting") == 1, "it is logged once"


@pytest.mark.real
def test_one_unwritable_folder_does_not_delay_others(client: Client, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    blocked = tmp_path / "texts" / "sub"
    blocked.write_text("in the way")
    (inbox / "sub").mkdir()
    write_tone(inbox / "sub" / "a.wav", 1.0)
    add(client, inbox, output_dir=tmp_path / "texts")
    until(lambda: "waiting" in events(client, inbox))
    write_tone(inbox / "b.wav", 2.0)
    finish(client, inbox, "done")
    assert client.watch.show(str(inbox))["failed"] == 0
    blocked.unlink()
    client.watch.retry(str(inbox))
    finish(client, inbox, "done", 2)
    assert (blocked / "a.en.txt").exists()
    assert events(client, inbox).count("waiting") == 1, "it is logged once"


@pytest.mark.real
def test_an_error_file_is_removed_with_its_cause(client: Client, inbox: Path) -> None:
    names = ["deleted.wav", "replaced.wav", "renamed.wav", "kept away.wav", "corrected.wav"]
    for name in names:
        (inbox / name).write_text("no sound in it")
    add(client, inbox)
    until(lambda: all((inbox / f"{name}.error.txt").exists() for name in names))
    until(lambda: client.watch.show(str(inbox))["failed"] == len(names))
    (inbox / "corrected.wav.error.txt").write_text("mine")
    for name in ("deleted.wav", "corrected.wav"):
        (inbox / name).unlink()
    write_tone(inbox / "replaced.wav", 1.0)
    (inbox / "renamed.wav").rename(inbox / "other.wav")
    (inbox / "kept away.wav").rename(inbox / "kept away.bak")
    expected = ["corrected.wav.error.txt", "other.wav.error.txt"]
    until(lambda: sorted(path.name for path in inbox.glob("*.error.txt")) == expected)
    finish(client, inbox, "done")
    assert (inbox / "replaced.en.txt").exists()
    assert (inbox / "corrected.wav.error.txt").read_text() == "mine"
    (inbox / "kept away.bak").rename(inbox / "kept away.wav")
    until((inbox / "kept away.wav.error.txt").exists)
    metrics = client.daemon.metrics()["content"]
    assert 'whisperd_watch_folders{status="watching"} 1\n' in metrics
    counts = dict(re.findall(r'whisperd_watch_files_total{outcome="(\w+)"} (\d+)', metrics))
    assert int(counts["failed"]) >= len(names) and int(counts["done"]) >= 1
    assert "whisperd_watch_file_duration_seconds_count 0\n" not in metrics


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are always UTF-8")
def test_names_that_are_not_utf_8_are_distinguished(client: Client, inbox: Path) -> None:
    folder = inbox / os.fsdecode(b"\xe0")
    folder.mkdir()
    for byte in (b"\xe8", b"\xe9"):
        write_tone(folder / os.fsdecode(byte + b".wav"), 1.0)
    add(client, folder)
    finish(client, f"{inbox}/\\xe0", "done", 2)
    shown = client.watch.log(f"{inbox}/\\xe0", 100)
    assert {line["path"] for line in shown} == {"\\xe8.wav", "\\xe9.wav"}
    ways = ("\\xe9.wav", f"{inbox}/\\xe0/\\xe9.wav", str(folder / os.fsdecode(b"\xe9.wav")))
    for count, path in enumerate(ways, 3):
        assert client.watch.retry(str(folder), [path]) == {"retried": 1}
        finish(client, folder, "done", count)
    again = client.watch.log(str(folder), 100)[len(shown) :]
    assert {line["path"] for line in again} == {"\\xe9.wav"}
    with pytest.raises(WhisperdError, match="not a file of this watch"):
        client.watch.retry(str(folder), ["\\xea.wav"])
    client.watch.remove(str(folder))


@pytest.mark.real
def test_an_unusable_runtime_makes_a_watch_wait_and_fails_no_file(client: Client, inbox: Path) -> None:
    client.runtimes.create("other", model=client.runtimes.list()[0]["model"])
    add(client, inbox, runtime="other")
    client.runtimes.disable("other")
    write_tone(inbox / "a.wav", 1.0)
    until(lambda: "waiting" in events(client, inbox))
    shown = client.watch.show(str(inbox))
    assert shown["failed"] == 0 and shown["runtime"] == "other"
    client.runtimes.enable("other")
    finish(client, inbox, "done")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"outputs": ["docx"]}, "outputs"),
        ({"name": "out.txt"}, "name"),
        ({"after": "move"}, "move_to"),
        ({"move_to": "/done"}, "move_to"),
        ({"quiet_hours": "late"}, "quiet_hours"),
        ({"quiet_hours": "10:00-10:00"}, "quiet_hours"),
        ({"outputs": ["json", "verbose_json"]}, "name"),
    ],
)
def test_invalid_watches_are_refused(client: Client, inbox: Path, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(WhisperdError) as caught:
        client.watch.add(inbox, **fields)
    assert (caught.value.code, caught.value.data["field"]) == ("watch.invalid", field)
    assert client.watch.list() == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("place", ["/", "/proc", "/proc/self/fdinfo"])
def test_system_folders_cannot_be_watched(client: Client, place: str) -> None:
    with pytest.raises(WhisperdError) as caught:
        client.watch.add(place)
    assert (caught.value.code, caught.value.data["field"]) == ("watch.invalid", "path")
    assert client.watch.list() == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_files_of_proc_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "process").symlink_to("/proc/self")
    (tmp_path / "status").write_text("recording")
    found = list(scanner.walk(str(tmp_path), Selection(True, ("status",), (), frozenset())))
    assert [seen.path for seen in found if seen] == ["status"]


@pytest.mark.parametrize(
    "words",
    [
        ("add", ""),  # an unset variable in a script, which would mean the current folder
        ("add", "inbox", "--include", ""),
        ("add", "inbox", "--output-dir", ""),
        ("add", "inbox", "--command", "touch ''"),
        ("add", "inbox", "--command", "touch 'a"),
    ],
)
def test_empty_arguments_are_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--socket", "nowhere", "--no-start", "watch", *words]) == 2
    assert "empty" in (err := capsys.readouterr().err) or "quotes" in err


def test_a_missing_folder_cannot_be_added(client: Client, tmp_path: Path) -> None:
    with pytest.raises(WhisperdError) as caught:
        client.watch.add(tmp_path / "nowhere")
    assert caught.value.code == "watch.absent"


def test_a_deleted_folder_is_shown_with_the_fix_and_can_be_removed_by_its_relative_name(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ctl(*words: str) -> tuple[int, str]:
        status = main.run(["--socket", client.daemon.status()["socket"], "watch", *words])
        return status, capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    Path("gone").mkdir()
    assert ctl("add", "gone")[0] == 0
    Path("gone").rmdir()
    why = client.watch.scan(str(tmp_path / "gone"))["error"]
    assert ctl("scan", "gone") == (0, f"{why['message']}\n{why['fix']}\nfiles: 0 pending, 0 done, 0 failed\n")
    assert f"status:      absent\n{'':13}{why['message']}\n{'':13}{why['fix']}\n" in ctl("show", "gone")[1]
    assert ctl("remove", "gone") == (0, f"{tmp_path / 'gone'} is no longer watched\n")


def test_an_unknown_model_is_refused(client: Client, inbox: Path) -> None:
    watch = client.watch.add(inbox)
    with pytest.raises(WhisperdError) as caught:
        client.watch.edit(watch["id"], options={"model": "larg-v3"})
    assert caught.value.code == "model.unknown"
    assert client.watch.show(watch["id"])["options"] == {}


def test_quiet_hours_and_editing(client: Client, inbox: Path) -> None:
    watch = client.watch.add(inbox, quiet_hours="00:00-24:00")
    write_tone(inbox / "a.wav", 1.0)
    until(lambda: client.watch.show(watch["id"])["pending"] == 1)
    client.watch.scan(watch["id"])
    shown = client.watch.show(watch["id"])
    assert shown["status"] == "quiet" and shown["working"] == 0
    with pytest.raises(WhisperdError) as caught:
        client.watch.edit(watch["id"], version=7, notify=True)
    assert caught.value.code == "watch.stale"
    assert client.watch.edit(watch["id"], version=1, exclude=["*.wav"])["version"] == 2
    client.watch.scan(watch["id"])
    assert client.watch.show(watch["id"])["pending"] == 0


def test_pausing_does_not_change_the_version(client: Client, inbox: Path) -> None:
    watch = client.watch.add(inbox)
    client.watch.pause(watch["id"])
    client.watch.resume(watch["id"])
    after = client.watch.edit(watch["id"], version=watch["version"], options={"language": "de"})
    assert after["version"] == watch["version"] + 1


def test_the_error_for_a_nul_character_names_it(client: Client, inbox: Path) -> None:
    with pytest.raises(WhisperdError, match="NUL") as caught:
        client.watch.add(inbox, move_to="/done\0", after="move")
    assert caught.value.code == "watch.invalid"


def test_file_systems_without_notifications_are_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whisperd.watch.mounts import file_system_of, needs_polling

    mounts = {"/": "ext4", str(tmp_path): "smbfs", str(tmp_path / "near"): "apfs"}
    partitions = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: partitions)
    found = [file_system_of(str(tmp_path / name)) for name in ("far", "near", "near/below", "nearby", "..")]
    assert found == ["smbfs", "apfs", "apfs", "smbfs", "ext4"]
    polled = ("nfs4", "cifs", "fuse.sshfs", "smbfs", "macfuse")
    assert [kind for kind in (*polled, "ext4", "btrfs", "tmpfs", "apfs", None) if needs_polling(kind)] == [
        *polled
    ]
