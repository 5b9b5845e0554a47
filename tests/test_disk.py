"""File system errors are explained, each with a fix."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from whisperd import disk
from whisperd.models import errors as models
from whisperd.natives import errors as natives
from whisperd.rpc.errors import WhisperdError

Tell = Callable[[str, Path, OSError], WhisperdError]


@pytest.mark.parametrize(
    ("tell", "code", "variable"),
    [
        (models.from_os_error, "model.read_only", "WHISPERD_MODELS_DIR"),
        (natives.from_os_error, "native.not_writable", "WHISPERD_NATIVE_DIR"),
    ],
)
def test_a_file_in_place_of_a_folder_is_explained(
    tell: Tell, code: str, variable: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below") if os.name == "posix" else (file,):
        with pytest.raises(OSError) as refused:
            folder.mkdir(exist_ok=True)
        error = tell("toy", folder, refused.value)
        assert error.code == code
        assert str(folder) in error.message and variable in error.fix


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("tell", [models.from_os_error, natives.from_os_error])
def test_the_system_error_and_its_path_are_quoted(tell: Tell, number: int) -> None:
    error = tell("toy", Path("/folder"), OSError(number, os.strerror(number), "/folder/file"))
    assert error.message.endswith(f"removed: /folder/file: {os.strerror(number)}.")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such thing")
@pytest.mark.parametrize(("number", "whole"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_only_a_failing_sync_of_a_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, whole: bool
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with nullcontext() if whole else pytest.raises(OSError):
        disk.write_whole(tmp_path / "below" / "file", b"1234")
    assert (tmp_path / "below" / "file").read_bytes() == b"1234"


def test_a_file_is_on_the_disk_before_it_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            synced.append((status.st_size, (tmp_path / "file").read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "file").write_bytes(b"old")
    disk.write_whole(tmp_path / "file", b"1234")
    assert synced == [(4, b"old")]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"1234"]


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        disk.write_whole(tmp_path / "file", b"1234")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "full"),
        (errno.EFBIG, "full"),
        (errno.EACCES, "forbidden"),
        (errno.EROFS, "forbidden"),
        (errno.EIO, None),
        (errno.ENOENT, None),
    ],
)
def test_why_the_system_refuses(number: int, reason: str | None) -> None:
    assert disk.refusal(OSError(number, os.strerror(number))) == reason


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({}, "There is not enough space for the model toy in /folder."),
        (
            {"needed_bytes": 145_000_000, "free_bytes": 60_000_000},
            "There is not enough space for the model toy in /folder: it needs 145 MB, and 60 MB are free.",
        ),
    ],
)
def test_a_full_disk_is_explained_with_what_is_known(known: dict[str, int], message: str) -> None:
    assert (
        disk.disk_full("model", "toy", PurePosixPath("/folder"), "Free some space.", **known).message
        == message
    )


def test_the_size_of_a_folder_is_that_of_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c").write_bytes(b"345")
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "b").write_bytes(b"1234")
    assert disk.files_bytes(tmp_path) == 6
    assert disk.free_bytes(tmp_path / "not" / "there") > 0


@contextmanager
def folder_repeatedly_recreated(folder: Path) -> Iterator[None]:
    """Create and delete a folder with a file repeatedly during the block."""
    over = threading.Event()

    def recreate() -> None:
        while not over.is_set():
            folder.mkdir()
            (folder / "file").write_bytes(b"1234")
            (folder / "file").unlink()
            folder.rmdir()

    thread = threading.Thread(target=recreate)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_folder_deleted_during_a_scan_is_absent(tmp_path: Path) -> None:
    folder = tmp_path / "2.1-cp311" / "engine"
    folder.parent.mkdir()
    with folder_repeatedly_recreated(folder):
        for _ in range(1000):
            assert disk.files_bytes(folder) in (0, 4)
            assert {path.name for path in disk.contents(folder)} <= {"file"}
    assert disk.contents(folder) == []


class Record(msgspec.Struct):
    number: int


DEPTH = 3000
"""Deeper than Python's recursion limit."""


@pytest.mark.parametrize(
    "spoilt",
    [b"", b'{"number": 1', b'{"number": "b"}', b"\xff", b'{"other": ' + b"[" * DEPTH],
)
def test_a_corrupted_file_reads_as_none(spoilt: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    assert disk.read_json(file, Record) is None
    file.write_bytes(b'{"number": 1}')
    assert disk.read_json(file, Record) == Record(1)
    file.write_bytes(spoilt)
    assert disk.read_json(file, Record) is None
