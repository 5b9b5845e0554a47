"""The file operations of watch folders."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd.watch import followup, scanner, writing
from whisperd.watch.ledger import Identity
from whisperd.watch.names import Selection
from whisperd.watch.preset import WatchPreset
from whisperd.watch.scanner import classify, folder_inode, look_at, walk
from whisperd.watch.writing import move_source, place, remove_leftovers, remove_ours, text_hash
from whisperd_testing import run_python

OPENED_MEANWHILE = """
import fcntl, os, sys
from whisperd.watch.scanner import is_being_written

lock = fcntl.fcntl

def lock_and_be_disturbed(descriptor, command, *arguments):
    lock(descriptor, command, *arguments)
    if (command, *arguments) == (fcntl.F_SETLEASE, fcntl.F_RDLCK):
        try:
            os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)
        except BlockingIOError:
            print("refused")

fcntl.fcntl = lock_and_be_disturbed
with open(sys.argv[1], "rb") as file:
    print(is_being_written(file.fileno(), sys.argv[1]))
"""

HASH_OF = """
import sys
from whisperd.watch.writing import file_hash

print(file_hash(sys.argv[1]))
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    path = folder / "a.wav"
    path.write_bytes(b"sound")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="leases")
def test_opening_a_file_while_it_is_checked_does_not_kill_the_daemon(recording: Path) -> None:
    said = run_python(OPENED_MEANWHILE, str(recording), env=os.environ)
    assert said.split() == ["refused", "False"]


def test_a_moved_recording_gets_a_free_name(recording: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.mkdir()
    (done / "a.wav").write_bytes(b"other")
    assert move_source(str(recording), str(done)) == str(done / "a (2).wav")
    assert names(done) == ["a (2).wav", "a.wav"] and not recording.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the whole path is limited")
def test_a_free_name_is_not_too_long(recording: Path, tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.mkdir()
    longest = "é" * 125 + "a.wav"
    recording = recording.rename(recording.with_name(longest))
    (done / longest).write_bytes(b"other")
    moved = move_source(str(recording), str(done))
    assert moved == str(done / ("é" * 123 + " (2).wav")) and not recording.exists()


@pytest.mark.parametrize("has_links", [True, False])
def test_an_interrupted_move_is_completed(recording: Path, tmp_path: Path, has_links: bool) -> None:
    done = tmp_path / "done"
    done.mkdir()
    if has_links:
        os.link(recording, done / "a.wav")
    else:
        shutil.copy2(recording, done / "a.wav")
    assert move_source(str(recording), str(done)) == str(done / "a.wav")
    assert names(done) == ["a.wav"] and not recording.exists()


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_recording_is_moved_to_another_mount(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    """Two mounts of one disk look like one, but files cannot be renamed between them."""

    def refuse_beyond(name: str) -> None:
        change = getattr(os, name)

        def changed(old: str, new: str) -> None:
            if Path(old).parent != Path(new).parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            change(old, new)

        monkeypatch.setattr(os, name, changed)

    refuse_beyond("link")
    refuse_beyond("rename")
    done = tmp_path / "done"
    done.mkdir()
    if is_taken:
        (done / "a.wav").write_bytes(b"other")
    target = done / ("a (2).wav" if is_taken else "a.wav")
    assert move_source(str(recording), str(done)) == str(target)
    assert target.read_bytes() == b"sound" and not recording.exists()
    assert names(done) == sorted({"a.wav", target.name})


def test_a_recording_that_does_not_fit_on_another_disk_is_not_copied(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move is tried again every ten minutes, and the recording may be large."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    copied: list[str] = []
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", lambda source, _target: copied.append(source))
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=4))
    with pytest.raises(WhisperdError) as refused:
        move_source(str(recording), str(tmp_path / "done"))
    assert refused.value.code == "disk.full" and "recording a.wav" in refused.value.message
    assert not copied and recording.exists()


def test_a_recording_already_at_its_destination_stays(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(recording.parent)
    assert move_source(str(recording), str(tmp_path / "link")) == str(recording)
    assert recording.exists()


def test_a_moved_link_still_leads_to_its_recording(recording: Path, tmp_path: Path) -> None:
    link, done = tmp_path / "links" / "b.wav", tmp_path / "far" / "away"
    link.parent.mkdir()
    link.symlink_to(f"../inbox/{recording.name}")
    assert move_source(str(link), str(done)) == str(done / "b.wav")
    assert (done / "b.wav").read_bytes() == b"sound"
    assert names(link.parent) == [] and recording.exists()


def test_a_recording_changed_while_it_is_copied_stays(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(source: str, target: str) -> None:
        shutil.copyfile(source, target)
        recording.write_bytes(b"more sound")

    monkeypatch.setattr(shutil, "copy2", copy)
    with pytest.raises(OSError, match="changed during"):
        writing._copy(str(recording), str(tmp_path / "a.wav"))
    assert recording.read_bytes() == b"more sound" and names(tmp_path) == ["inbox"]


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes and devices")
@pytest.mark.parametrize("is_device", [False, True])
def test_a_pipe_or_device_in_the_place_of_a_text_blocks_nothing(recording: Path, is_device: bool) -> None:
    text = recording.with_name("a.en.txt")
    if is_device:
        text.symlink_to("/dev/zero")
    else:
        os.mkfifo(text)
    assert run_python(HASH_OF, str(text), env=os.environ) == "None\n"
    with pytest.raises(WhisperdError) as refused:
        place(str(text), b"text", (), str(recording), overwrite=True)
    assert refused.value.code == "output.exists" and not text.is_file()


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_a_text_has_the_read_permissions_of_its_recording(recording: Path) -> None:
    recording.chmod(0o440)
    text = recording.with_name("a.en.txt")
    before = os.umask(0o077)
    try:
        place(str(text), b"text", (), str(recording))
    finally:
        os.umask(before)
    assert text.read_bytes() == b"text" and text.stat().st_mode & 0o777 == 0o640
    assert names(recording.parent) == ["a.en.txt", "a.wav"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another group")
@pytest.mark.parametrize(("mode", "text_mode"), [(0o640, 0o600), (0o664, 0o644)])
def test_another_group_may_not_do_more_than_others(recording: Path, mode: int, text_mode: int) -> None:
    recording.chmod(mode)
    os.chown(recording, -1, os.getegid() + 1)
    text = recording.with_name("a.en.txt")
    place(str(text), b"text", (), str(recording))
    assert text.stat().st_mode & 0o777 == text_mode


@pytest.mark.skipif(sys.platform != "linux", reason="access control lists")
def test_what_a_list_grants_to_one_user_is_not_granted_to_the_group(recording: Path) -> None:
    owner, user, group, mask, others, no_id = 0x01, 0x02, 0x04, 0x10, 0x20, 2**32 - 1
    granted = ((owner, 6, no_id), (user, 4, 12345), (group, 0, no_id), (mask, 4, no_id), (others, 0, no_id))
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in granted)
    try:
        os.setxattr(recording, "system.posix_acl_access", packed)
    except OSError:
        pytest.skip("no access control lists here")
    assert recording.stat().st_mode & 0o777 == 0o640
    text = recording.with_name("a.en.txt")
    place(str(text), b"text", (), str(recording))
    assert text.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="permissions")
@pytest.mark.parametrize("is_copied", [False, True])
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_what_is_being_written_is_private_and_cannot_be_swapped(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_copied: bool
) -> None:
    """Others may be able to write to the folder: a link that they put there must not get permissions."""
    recording.chmod(mode)
    ours, target, modes = tmp_path / "ours", recording.with_name("a.txt"), set[int]()
    ours.write_bytes(b"secret")
    ours.chmod(0o600)
    module, name = (shutil, "copystat") if is_copied else (os, "fsync")
    do = getattr(module, name)

    def swap_and_do(*arguments: object) -> None:
        for part in recording.parent.glob(".whisperd-*"):
            modes.add(part.stat().st_mode & 0o777)
            part.unlink()
            part.symlink_to(ours)
        do(*arguments)

    monkeypatch.setattr(module, name, lambda *arguments, **_: swap_and_do(*arguments))
    if is_copied:
        writing._copy(str(recording), str(target))
    else:
        place(str(target), b"text", (), str(recording))
    assert modes == {0o600} or mode == 0o666
    assert ours.stat().st_mode & 0o777 == 0o600 and ours.read_bytes() == b"secret"


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_created_folders_have_the_permissions_of_the_folder_of_the_recording(
    recording: Path, tmp_path: Path
) -> None:
    recording.parent.chmod(0o770)
    (tmp_path / "there").mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        place(str(tmp_path / "there" / "texts" / "deep" / "a.txt"), b"text", (), str(recording))
        move_source(str(recording), str(tmp_path / "done" / "deep"))
    finally:
        os.umask(before)
    for made in ("there/texts", "there/texts/deep", "done", "done/deep"):
        assert (tmp_path / made).stat().st_mode & 0o777 == 0o770, made
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.name != "posix", reason="permissions")
@pytest.mark.parametrize("is_link", [False, True])
def test_a_created_folder_cannot_be_swapped(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    """Others may be able to write to its parent: what they put there must not get permissions, nor block."""
    recording.parent.chmod(0o777)
    ours, made = tmp_path / "ours", tmp_path / "made"
    ours.mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    writer = os.open(tmp_path / "pipe", os.O_RDWR)  # without one, a test that fails would block

    def make(_folder: str, *, exist_ok: bool) -> None:
        if is_link:
            made.symlink_to(ours)
        else:
            (tmp_path / "pipe").rename(made)

    monkeypatch.setattr(os, "makedirs", make)
    writing._make_folder(str(made), str(recording.parent))
    os.close(writer)
    assert made.stat().st_mode & 0o777 == (0o700 if is_link else 0o600)


@pytest.mark.skipif(sys.platform != "linux", reason="folders cannot be held elsewhere")
@pytest.mark.parametrize("after", ["delete", "move"])
def test_a_folder_swapped_after_the_check_protects_what_it_leads_to(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: Literal["delete", "move"]
) -> None:
    """Whoever may write to a shared folder can replace its subfolders with links at any moment."""
    ours, done = tmp_path / "ours", tmp_path / "done"
    ours.mkdir()
    (ours / "a.wav").write_bytes(b"precious")
    seen = look_at(str(tmp_path), "inbox/a.wav")
    assert seen is not None
    check = scanner.is_same

    def check_and_swap(*arguments: Any) -> bool:
        is_same = check(*arguments)
        recording.parent.rename(tmp_path / "elsewhere")
        recording.parent.symlink_to(ours)
        return is_same

    monkeypatch.setattr(scanner, "is_same", check_and_swap)
    move_to = str(done) if after == "move" else None
    preset = WatchPreset(id="w", path=str(tmp_path), after=after, move_to=move_to, created="", changed="")
    row = SimpleNamespace(path="inbox/a.wav", identity=seen.identity)
    line = followup._move_or_delete(preset, row)  # type: ignore[arg-type]
    assert line.event == ("deleted" if after == "delete" else "moved away")
    assert (ours / "a.wav").read_bytes() == b"precious" and not (tmp_path / "elsewhere" / "a.wav").exists()
    assert after == "delete" or (done / "inbox" / "a.wav").read_bytes() == b"sound"


def test_a_recording_stays_the_same_if_its_disk_gets_another_device_number(recording: Path) -> None:
    seen = look_at(str(recording.parent), recording.name)
    assert seen is not None
    inode = seen.identity.inode.partition(":")[2]
    before, another = (
        Identity(one, seen.identity.size_bytes, seen.identity.modified_ns)
        for one in (f"ffff:{inode}", "ffff:0")
    )
    assert scanner.is_same(str(recording.parent), recording.name, before)
    assert not scanner.is_same(str(recording.parent), recording.name, another)


def test_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    of_dead_process, of_live_process = (
        f".whisperd-{pid}-0123456789abcdef.part" for pid in (2**31 - 1, os.getppid())
    )
    for name in (of_dead_process, of_live_process, ".whisperd-notes", "a.part"):
        (tmp_path / name).touch()
    remove_leftovers(str(tmp_path))
    remove_leftovers(str(tmp_path / "nowhere"))
    assert names(tmp_path) == sorted([of_live_process, ".whisperd-notes", "a.part"])


def test_a_text_that_cannot_be_deleted_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str) -> None:
        raise PermissionError

    text = tmp_path / "a.en.txt"
    text.write_bytes(b"text")
    monkeypatch.setattr(os, "unlink", refuse)
    remove_ours(str(text), {text_hash(b"text")})
    assert text.exists()


def test_a_folder_that_cannot_be_created_is_an_error(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "done").write_text("a file")
    with pytest.raises(WhisperdError) as refused:
        move_source(str(recording), str(tmp_path / "done"))
    assert refused.value.code == "output.not_writable" and recording.exists()


def test_a_link_to_a_recording_of_the_same_folder_is_ignored(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / ".kept").mkdir(parents=True)
    for name in ("b.wav", ".kept/c.wav", "../d.wav"):
        (root / name).write_bytes(b"sound")
    for name, target in (("a.wav", "b.wav"), ("c.wav", ".kept/c.wav"), ("d.wav", "../d.wav")):
        (root / name).symlink_to(target)
    assert [seen.path for seen in walk(str(root), Selection()) if seen is not None] == [
        "b.wav",
        "c.wav",
        "d.wav",
    ]


def test_links_to_skipped_folders_are_not_followed(tmp_path: Path) -> None:
    """Otherwise, a recording that was moved away when done would be a new one."""
    for name in ("a.wav", "done/b.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"sound")
    (tmp_path / "latest").symlink_to("done")
    (tmp_path / "before").symlink_to(tmp_path)

    def found(selection: Selection) -> list[str]:
        return sorted(seen.path for seen in walk(str(tmp_path), selection) if seen is not None)

    assert found(Selection()) == ["a.wav", "done/b.wav"]
    assert found(Selection(skipped=frozenset({"done"}))) == ["a.wav"]
    above = str(tmp_path.parent)
    assert found(Selection(skipped=frozenset({"before", above}))) == ["a.wav", "done/b.wav"]


def test_links_into_skipped_folders_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in ("root/done/deep", "other/deep", "others"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.wav").write_bytes(b"sound")
    for name, target in (("link", "done/deep"), ("far", "../other/deep"), ("free", "../others")):
        (root / name).symlink_to(target)
    selection = Selection(skipped=frozenset({"done", str(tmp_path / "other")}))

    def found(start: str = "") -> list[str]:
        return [seen.path for seen in walk(str(root), selection, start) if seen is not None]

    (root / "one.wav").symlink_to("../other/deep/a.wav")
    assert found() == ["free/a.wav"]
    assert found("link") == found("far") == []
    assert found("free") == ["free/a.wav"]
    told = [(str(root / name), True) for name in ("one.wav", "link/a.wav", "far/a.wav", "free/a.wav", "far")]
    files, _, _ = classify(str(root), selection, told, print)
    assert [seen.path for seen, _ in files] == ["free/a.wav"]
    inodes = {folder_inode(str(tmp_path / one)) for one in ("root", "root/done/deep", "others")}
    by_inode = Selection(skipped_inodes=frozenset(inode for inode in inodes if inode))
    assert {seen.path for seen in walk(str(root), by_inode) if seen} == {"far/a.wav", "one.wav"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_links_of_others_are_followed_only_to_what_is_theirs(tmp_path: Path) -> None:
    """In a shared folder, they would otherwise get our recordings transcribed, moved or deleted."""
    root, other = tmp_path / "root", os.getuid() + 1
    for folder in ("root", "ours", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes(folder.encode())
    for path in ("theirs", "theirs/a.wav"):
        os.chown(tmp_path / path, other, -1)
    for name, target in (("one", "ours/a.wav"), ("their", "theirs/a.wav"), ("my", "ours/a.wav")):
        (root / f"{name}.wav").symlink_to(f"../{target}")
        (root / name).symlink_to(f"../{Path(target).parent}")
    for name in ("one.wav", "one", "their.wav", "their"):
        os.lchown(root / name, other, -1)

    def found(start: str = "") -> list[str]:
        return [seen.path for seen in walk(str(root), Selection(), start) if seen is not None]

    assert found() == ["a.wav", "my.wav", "their.wav", "my/a.wav", "their/a.wav"]
    assert found("one") == []
    told = [(str(root / name), True) for name in ("one.wav", "one/a.wav", "their.wav", "their/a.wav")]
    files, _, _ = classify(str(root), Selection(), told, print)
    assert [seen.path for seen, _ in files] == ["their.wav", "their/a.wav"]
    assert look_at(str(root), "one.wav") is look_at(str(root), "one/a.wav") is None
    assert look_at(str(root), "my.wav") is not None
    # The watched folder itself may be in a shared folder.
    assert folder_inode(str(root / "my")) is not None
    assert folder_inode(str(root / "one")) is None and not list(walk(str(root / "one"), Selection()))
    # Above it may be links of root, which in a sandbox seem to be those of another user.
    (tmp_path / "ours" / "deep").mkdir()
    (tmp_path / "ours" / "deep" / "a.wav").write_bytes(b"deep")
    assert folder_inode(str(root / "one" / "deep")) is not None
    assert [seen.path for seen in walk(str(root / "one" / "deep"), Selection()) if seen] == ["a.wav"]
    assert look_at(str(root / "one" / "deep"), "a.wav") is not None


def test_source_code_named_like_a_video_is_no_recording(tmp_path: Path) -> None:
    packets = (b"G@\0\x10\0" + b"\xff" * 183) * 20
    for name in ("camera.mts", "TV.TS", "sound.dts"):
        (tmp_path / name).write_bytes(packets)
    for name in ("module.mts", "module.ts", "board.dts"):
        (tmp_path / name).write_text("export const greeting = 'Grüße';\n" * 500)
    assert [seen.path for seen in walk(str(tmp_path), Selection()) if seen] == ["camera.mts", "sound.dts"]
    asked_for = Selection(include=("*.ts", "*.mts"))
    assert [seen.path for seen in walk(str(tmp_path), asked_for) if seen] == ["TV.TS", "camera.mts"]
    (tmp_path / "module.ts").write_bytes(packets)
    assert look_at(str(tmp_path), "module.ts") is not None
