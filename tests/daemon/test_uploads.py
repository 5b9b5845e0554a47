"""Uploads on a disk that refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from whisperd.daemon.uploads import UploadStore
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import LimitSettings

REFUSALS = [
    (errno.ENOSPC, "disk.full"),
    (errno.EDQUOT, "disk.full"),
    (errno.EIO, "uploads.not_writable"),
    (errno.EACCES, "uploads.not_writable"),
]


@pytest.fixture
def store(tmp_path: Path) -> UploadStore:
    return UploadStore(tmp_path, LimitSettings)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("number", "code"), REFUSALS)
def test_a_disk_that_refuses(
    store: UploadStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    upload = store.create()

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr("os.open", refuse)
        with pytest.raises(WhisperdError) as caught:
            store.create()
        assert caught.value.code == code
        with pytest.raises(WhisperdError) as caught:
            store.append(upload, b"piece")
        assert caught.value.code == code and os.strerror(number) in caught.value.message
    assert files(tmp_path) == []
    with pytest.raises(WhisperdError) as caught:
        store.append(upload, b"piece")
    assert caught.value.code == "upload.unknown"


def test_what_is_left_and_cannot_be_deleted_keeps_no_daemon_from_starting(
    store: UploadStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.create()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.unlink", refuse)
    again = UploadStore(tmp_path, LimitSettings)
    assert again.append(again.create(), b"piece") == 5
    assert os.strerror(errno.EPERM) in caplog.text


def test_a_piece_that_comes_late_brings_nothing_back(store: UploadStore, tmp_path: Path) -> None:
    upload = store.create()
    assert store.append(upload, b"piece") == 5
    for path in files(tmp_path):
        path.unlink()
    with pytest.raises(WhisperdError):
        store.append(upload, b"piece")
    assert files(tmp_path) == []
