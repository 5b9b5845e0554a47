"""`jobs.submit` as any client may call it: the inputs that it accepts, and its errors for all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon

pytestmark = pytest.mark.real


def submit(daemon: RunningDaemon, **input_: Any) -> str:
    """Submit an invalid input; return the error code."""
    with daemon.connect() as client, pytest.raises(WhisperdError) as caught:
        client.request("jobs.submit", input=input_)
    assert caught.value.fix
    return caught.value.code


def test_an_input_has_exactly_one_source(shared: RunningDaemon, tone: Path) -> None:
    path = str(tone)
    assert submit(shared) == "rpc.invalid_params"
    assert submit(shared, path=path, upload="x") == "rpc.invalid_params"
    assert submit(shared, path=path, path_bytes=path.encode()) == "rpc.invalid_params"
    assert submit(shared, path=5) == "rpc.invalid_params"
    assert submit(shared, url="https://example.org") == "rpc.invalid_params"


def test_invalid_paths_are_refused(shared: RunningDaemon) -> None:
    assert submit(shared, path="") == "input.not_absolute"
    assert submit(shared, path="relative.wav") == "input.not_absolute"
    assert submit(shared, path="/a\0b") == "audio.not_found"
    assert submit(shared, path_bytes=b"caf\xe9.wav") == "input.not_absolute"
    assert submit(shared, path_bytes=b"/caf\xe9.wav") == "audio.not_found"


def test_invalid_uploads_are_refused(shared: RunningDaemon) -> None:
    assert submit(shared, upload="nobodys") == "upload.unknown"
    assert submit(shared, upload="../../etc/passwd") == "upload.unknown"
    with shared.connect() as client:
        upload = client.request("uploads.create")["id"]
        assert submit(shared, upload=upload) == "upload.unknown"  # it belongs to another connection
        with pytest.raises(WhisperdError) as caught:
            client.request("jobs.submit", input={"upload": upload})
    assert caught.value.code == "audio.empty"


def test_an_upload_can_be_used_once(shared: RunningDaemon, tone: Path) -> None:
    with shared.connect() as client:
        upload = client.request("uploads.create")["id"]
        client.request("uploads.append", id=upload, data=tone.read_bytes())
        job = client.request("jobs.submit", input={"upload": upload}, options={"vad": False})["id"]
        with pytest.raises(WhisperdError):
            client.request("jobs.submit", input={"upload": upload})
        with pytest.raises(WhisperdError):
            client.request("uploads.append", id=upload, data=b"more")
        assert client.jobs.wait(job)["text"] == "transcribe 2.00 s"


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 0},
        {"temperature": [2.0]},
        {"task": "sing"},
        {"vad": "yes"},
        {"unknown": 1},
        {"model": 5},
    ],
)
def test_invalid_options_are_refused(shared: RunningDaemon, tone: Path, options: dict[str, Any]) -> None:
    with shared.connect() as client, pytest.raises(WhisperdError) as caught:
        client.request("jobs.submit", input={"path": str(tone)}, options=options)
    assert caught.value.code == "rpc.invalid_params"
    assert next(iter(options)) in caught.value.message
