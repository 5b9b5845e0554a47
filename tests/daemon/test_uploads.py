"""Uploads when the disk refuses to write or delete."""

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
def test_a_failed_write_deletes_the_upload(
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


def test_undeletable_leftovers_do_not_prevent_a_start(
    store: UploadStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.create()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.unlink", refuse)
    again = UploadStore(tmp_path, LimitSettings)
    assert again.append(again.create(), b"piece") == 5
    assert os.strerror(errno.EPERM) in caplog.text


def test_a_late_chunk_does_not_recreate_an_upload(store: UploadStore, tmp_path: Path) -> None:
    upload = store.create()
    assert store.append(upload, b"piece") == 5
    for path in files(tmp_path):
        path.unlink()
    with pytest.raises(WhisperdError):
        store.append(upload, b"piece")
    assert files(tmp_path) == []
