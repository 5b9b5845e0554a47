"""Uploads: their pieces stay in order, and a disk may refuse to write or delete them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest
from raw_client import RawClient

from whisperd.daemon.methods import uploads
from whisperd.daemon.uploads import UploadStore
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import LimitSettings
from whisperd_testing import RunningDaemon

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


@pytest.mark.anyio
async def test_no_piece_follows_one_that_could_not_be_stored(
    store: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the system is short of processes, and refuses to start a thread."""
    upload, discarded = store.create(), list[str]()
    call: Any = SimpleNamespace(
        connection=SimpleNamespace(uploads={upload}, uploading=anyio.Lock()),
        service=SimpleNamespace(uploads=store, discard_upload=discarded.append),
    )

    async def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(anyio.to_thread, "run_sync", refuse)
        with pytest.raises(RuntimeError):
            await uploads.append(call, uploads.AppendParams(id=upload, data=b"first"))
    with pytest.raises(WhisperdError) as caught:
        await uploads.append(call, uploads.AppendParams(id=upload, data=b"second"))
    assert caught.value.code == "upload.unknown" and discarded == [upload]


def test_pieces_sent_without_waiting_for_answers_stay_in_order(
    shared: RunningDaemon, toy: Callable[..., str]
) -> None:
    pieces = [bytes([number]) * 50_000 for number in range(50)]
    with RawClient(shared) as client:
        upload = client.request("uploads.create")["id"]
        job = {"input": {"upload": upload}, "options": {"model": toy(load_s=600)}}
        client.send(
            *(
                [0, number, "uploads.append", [{"id": upload, "data": piece}]]
                for number, piece in enumerate(pieces)
            ),
            [0, 50, "jobs.submit", [job]],
        )
        client.answer(50)
        path = shared.folder / "state" / "uploads" / upload
        assert path.read_bytes() == b"".join(pieces)
