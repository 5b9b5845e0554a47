"""Missing files: deleted, or on a disk that is not mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from watched import open_watches

from toy_runtime import until
from whisperd.watch import WatchChanges, absence
from whisperd.watch.absence import find_missing
from whisperd.watch.ledger import FileRow, Identity
from whisperd.watch.mounts import mounted_devices, parse_devices
from whisperd.watch.names import Selection
from whisperd.watch.notifier import Notifier
from whisperd.watch.scanner import folder_inode, look_at
from whisperd.watch.view import status_of

AWAY = "fffff"
"""The number of a device that is not mounted."""


def row(path: str, device: str = AWAY) -> FileRow:
    return FileRow(
        id=1, watch="1", path=path, identity=Identity(f"{device}:7", 5, 5), hash=None, status="done"
    )


def device(path: Path) -> str:
    return f"{path.stat().st_dev:x}"


def test_files_of_an_unmounted_disk_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "NOT MOUNTED").touch()
    (tmp_path / "b.wav").touch()
    missing = find_missing(str(tmp_path), Selection(), [row("disk/deep/a.wav"), row("b.wav"), row("c.wav")])
    assert [gone.path for gone in missing.gone] == ["c.wav"], (
        "a folder with other recordings is no empty mount point"
    )
    assert missing.unmounted == {"disk": folder_inode(str(tmp_path / "disk"))}


def test_missing_files_of_a_mounted_disk_are_deleted(tmp_path: Path) -> None:
    rows = [row("a.wav", device(tmp_path)), row("deep/b.wav", device(tmp_path))]
    assert find_missing(str(tmp_path), Selection(), rows).gone == rows


def test_missing_link_targets_on_a_mounted_disk_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "mounted_devices", lambda: frozenset({AWAY}))
    assert find_missing(str(tmp_path), Selection(), [row("a.wav")]).unmounted == {}


def test_missing_files_of_an_unchanged_folder_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    rows = [row("a.wav"), row("disk/b.wav")]
    missing = find_missing(str(tmp_path), Selection(), rows, is_same=True)
    assert missing.gone == rows[:1]
    assert list(missing.unmounted) == ["disk"]


def test_missing_files_below_a_mount_point_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    assert find_missing(str(tmp_path), Selection(), [row("a.wav")]).unmounted == {}


def test_mounted_devices_are_parsed() -> None:
    text = "22 27 0:21 / /proc rw - proc proc rw\n35 1 8:17 /a /mnt/a\\040disk rw - ext4 /dev/sdb1 rw\n"
    assert parse_devices(text) == {f"{os.makedev(0, 21):x}", f"{os.makedev(8, 17):x}"}


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_device_of_proc_is_mounted() -> None:
    assert device(Path("/proc")) in mounted_devices()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate disk in memory; mounting it needs root."""
    place = tmp_path / "inbox" / "disk"
    place.mkdir(parents=True)
    if sys.platform != "linux" or not mount(place):
        pytest.skip("not permitted to mount")
    yield place
    while place.is_mount():
        unmount(place)


def mount(place: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "whisperd-test", str(place)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.anyio
@pytest.mark.parametrize("watched", ["inbox", "inbox/disk"])
async def test_a_disk_that_is_unmounted_and_mounted_again(
    tmp_path: Path, disk: Path, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test may mount a disk meanwhile that gets the device number of this one.
    monkeypatch.setattr(absence, "mounted_devices", frozenset)
    renewed: list[str] = []
    monkeypatch.setattr(Notifier, "renew", lambda _notifier: renewed.append(watched))
    (disk / "a.wav").write_bytes(b"sound")
    below = os.path.relpath(disk / "a.wav", tmp_path / watched)
    async with open_watches(tmp_path) as watches:
        manager = watches.manager
        preset = await manager.add(str(tmp_path / watched), WatchChanges(output_dir=str(tmp_path / "texts")))

        async def known() -> Any:
            return await watches.store.files.at(preset.id, below)

        async def events() -> list[tuple[str, str | None]]:
            return [(line["event"], line["path"]) for line in await manager.log(preset.id, 10)]

        folder = watches.folder(preset.id)
        await until(lambda: watches.jobs.paths and not folder.pending.in_progress)
        place = None if watched == "inbox/disk" else "disk"
        unmount(disk)
        for _ in range(2):
            await manager.scan(preset.id)
            await until(lambda: status_of(folder)[0] == ("watching" if place else "absent"))
            assert "ounted" in str(status_of(folder)[1])
            assert (await known()).gone is None
            assert (await events())[1:] == [("absent", place)], "it is logged once"
        assert mount(disk)
        (disk / "a.wav").write_bytes(b"sound")
        renewed.clear()
        await manager.scan(preset.id)
        assert renewed, "changes on the disk go unreported"
        await until(lambda: status_of(folder) == ("watching", None) and not folder.pending.waiting)
        await until(lambda: not folder.pending.in_progress)
        assert (await known()).identity == getattr(look_at(str(tmp_path / watched), below), "identity", None)
        assert len(watches.jobs.paths) == 1, "the recording was transcribed again"
        assert (await events())[1:] == [("absent", place), ("back", place)]
