"""Output files are written completely or not at all, and never replace a file by accident."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from whisperd.cli.files import check_target, make_folder, matching, targets_in, write_file
from whisperd.rpc.errors import WhisperdError

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes, links and devices")


def test_each_input_has_its_own_file() -> None:
    assert targets_in("out", ["a/talk.mp3", "b.tar.wav", "-", ".hidden"], ["text"]) == [
        {"text": str(Path("out", name))} for name in ("talk.txt", "b.tar.txt", "stdin.txt", ".hidden.txt")
    ]


@pytest.mark.parametrize("inputs", [("a/talk.mp3", "b/talk.mp3"), ("talk.mp3", "talk.wav"), ("x", "x")])
def test_two_inputs_never_share_a_file(inputs: tuple[str, str]) -> None:
    with pytest.raises(WhisperdError) as caught:
        targets_in("out", inputs, ["text"])
    assert caught.value.code == "usage.invalid"
    first, second = inputs
    assert caught.value.message.startswith(f"The texts of {first} and {second} would both be written to ")
    assert caught.value.fix == "Transcribe them into different folders."


def test_each_format_has_its_own_file() -> None:
    assert targets_in("out", ["a.mp3"], ["srt", "text"]) == [
        {"srt": str(Path("out", "a.srt")), "text": str(Path("out", "a.txt"))}
    ]
    with pytest.raises(WhisperdError, match=r"a\.mp3 as json and a\.mp3 as verbose_json") as caught:
        targets_in("out", ["a.mp3"], ["json", "verbose_json"])
    assert caught.value.fix == "Omit one of the formats."
    with pytest.raises(WhisperdError, match=r"a\.mp3 as srt and a\.wav as srt") as caught:
        targets_in("out", ["a.mp3", "a.wav"], ["srt", "text"])
    assert caught.value.fix == "Transcribe them into different folders."


def test_patterns_are_expanded_on_windows_only(tmp_path: Path) -> None:
    for name in ("b.mp3", "a.mp3", "c[1].mp3", "c1.mp3", "d.txt"):
        (tmp_path / name).touch()
    names = [str(tmp_path / name) for name in ("*.mp3", "c[1].mp3", "none.*")]
    assert matching([*names, "-"], "linux") == [*names, "-"]
    found = [str(tmp_path / name) for name in ("a.mp3", "b.mp3", "c1.mp3", "c[1].mp3")]
    assert matching([*names, "-"], "win32") == [*found, *names[1:], "-"]


def test_an_existing_file_is_kept_unless_overwrite_is_given(tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    target.write_text("mine")
    with pytest.raises(WhisperdError) as caught:
        check_target(str(target), [], overwrite=False)
    assert caught.value.code == "output.exists"
    assert "--overwrite" in caught.value.fix
    check_target(str(target), [], overwrite=True)


@posix
def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    recording, link = tmp_path / "a.wav", tmp_path / "b.wav"
    recording.write_bytes(b"RIFF")
    link.symlink_to(recording)
    with pytest.raises(WhisperdError) as caught:
        check_target(str(link), ["-", str(tmp_path / "missing"), str(recording)], overwrite=True)
    assert caught.value.code == "output.is_input"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing/a.txt", "missing does not exist."),
        ("folder", ""),
        pytest.param(256 * "x", "", marks=pytest.mark.skipif(os.name == "nt", reason="another error")),
    ],
)
def test_an_unwritable_file_is_detected_before_the_work(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(WhisperdError) as caught:
        check_target(str(tmp_path / name), [], overwrite=True)
    assert caught.value.code == "output.not_writable" and said in caught.value.message


@posix
def test_an_unwritable_folder_is_detected_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.setattr("os.access", lambda path, _: str(path) != str(tmp_path))
    for name in ("there", "link", "new"):
        with pytest.raises(WhisperdError, match="its folder is not writable"):
            check_target(str(tmp_path / name), [], overwrite=True)
    check_target(str(tmp_path / "there"), [], overwrite=True, is_replaced=False)


@posix
def test_an_inaccessible_folder_is_not_reported_as_missing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(WhisperdError, match="symbolic links"):
        check_target(str(tmp_path / "loop" / "a.txt"), [], overwrite=True)


@posix
def test_a_new_file_has_the_mode_of_the_users_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_file(str(tmp_path / "a.txt"), "Grüße\n")
    finally:
        os.umask(previous)
    assert (tmp_path / "a.txt").read_bytes() == "Grüße\n".encode()
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@posix
def test_replacing_keeps_the_mode_and_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def fsync(file: int) -> None:
        status = os.fstat(file)
        synced.append((stat.S_IMODE(status.st_mode), status.st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "real.txt").write_text("old text")
    (tmp_path / "real.txt").chmod(0o640)
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_file(str(tmp_path / "link.txt"), "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real.txt").stat().st_mode) == 0o640
    assert synced == [(0o600, 3)], "others could read it while it was written, or it was synced unwritten"


@posix
def test_a_link_in_the_place_of_the_new_file_gets_no_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, ours = tmp_path / "shared" / "a.txt", tmp_path / "ours"
    target.parent.mkdir()
    for path, mode in ((target, 0o666), (ours, 0o600)):
        path.write_text("old")
        path.chmod(mode)

    def swap(_file: int) -> None:
        (part,) = target.parent.glob(".whisperctl-*")
        part.unlink()
        part.symlink_to(ours)

    monkeypatch.setattr(os, "fsync", swap)
    write_file(str(target), "new")
    assert stat.S_IMODE(ours.stat().st_mode) == 0o600 and ours.read_text() == "old"


@posix
def test_a_device_is_written_to_and_not_replaced() -> None:
    check_target("/dev/null", [], overwrite=False)
    write_file("/dev/null", "text")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
def test_a_full_disk_is_an_error() -> None:
    with pytest.raises(WhisperdError) as caught:
        write_file("/dev/full", "text")
    assert caught.value.code == "output.not_writable"
    assert "No space left" in caught.value.message


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(WhisperdError):
        write_file(str(tmp_path / "a.txt"), "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WhisperdError) as caught:
        make_folder(str(tmp_path / name))
    assert caught.value.code == "output.not_writable"
    assert "it, or a parent, is a file" in caught.value.message
    assert "Pass a folder" in caught.value.fix


def test_a_folder_is_created_with_its_parents(tmp_path: Path) -> None:
    make_folder(str(tmp_path / "a" / "b"))
    make_folder(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
