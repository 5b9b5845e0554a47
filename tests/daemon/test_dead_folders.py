"""A folder that does not respond (on a network or an automounter) blocks only the requests that name it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_client import RawClient, until

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import TESTS, RunningDaemon

MakeDaemon = Callable[..., RunningDaemon]

DEAD = "/dead/speech.wav"
# Run by the interpreter when the daemon starts: no real file can be made to hang without the system's help.
HANG = """
import os, time

really_open = os.open

def open(path, *rest, **options):
    if str(path).startswith("/dead/"):
        time.sleep(3600)
    return really_open(path, *rest, **options)

os.open = open

from pathlib import Path

really_iterate = Path.iterdir

def iterate(path):
    if str(path).startswith("/dead/"):
        time.sleep(3600)
    return really_iterate(path)

Path.iterdir = iterate

from whisperd import threads
from whisperd.daemon import main
from whisperd.daemon.uploads import UploadStore
from whisperd.models.stored import StoredModels

threads.ANSWER_TIMEOUT_S = main.END_TIMEOUT_S = float(os.environ["PATIENCE_S"])
if "DEAD_STORE" in os.environ:
    StoredModels.list = lambda store: time.sleep(3600)
if "DEAD_UPLOADS" in os.environ:
    UploadStore.remove = lambda store, upload: time.sleep(3600)
"""


@pytest.fixture
def start_with_dead_folder(tmp_path: Path, make_daemon: MakeDaemon) -> Callable[..., RunningDaemon]:
    """Return a function that starts a daemon for which every access to /dead hangs."""
    (tmp_path / "sitecustomize.py").write_text(HANG)

    def start(patience_s: float, **env: str) -> RunningDaemon:
        python_path = os.pathsep.join([str(TESTS / "backends"), str(tmp_path)])
        env = {"PYTHONPATH": python_path, "PATIENCE_S": str(patience_s), **env}
        return make_daemon(env=env).start()

    return start


def test_a_job_on_a_dead_file_is_refused(start_with_dead_folder: Callable[..., RunningDaemon]) -> None:
    with RawClient(start_with_dead_folder(0.2)) as client, pytest.raises(WhisperdError) as caught:
        client.request("jobs.submit", {"input": {"path": DEAD}})
    assert caught.value.code == "audio.not_readable"
    assert "did not respond" in caught.value.message
    assert caught.value.fix


def test_a_model_in_a_dead_folder_is_refused(start_with_dead_folder: Callable[..., RunningDaemon]) -> None:
    with RawClient(start_with_dead_folder(0.2)) as client:
        for method, params in (
            ("models.path", {"name": "/dead/model"}),
            ("models.pull", {"name": "/dead/model"}),
            ("models.verify", {"name": "/dead/model"}),
            ("models.import", {"path": "/dead/model", "name": "mine"}),
        ):
            with pytest.raises(WhisperdError, match="did not respond") as caught:
                client.request(method, params)
            assert caught.value.code == "model.invalid_folder"


def test_many_dead_files_block_neither_others_nor_shutdown(
    start_with_dead_folder: Callable[..., RunningDaemon], some_file: str, endless: str
) -> None:
    daemon = start_with_dead_folder(3600)
    with RawClient(daemon) as client, RawClient(daemon) as other:
        client.send(*([0, number, "jobs.submit", [{"input": {"path": DEAD}}]] for number in range(50)))
        assert isinstance(other.request("models.list"), list)
        job = other.request("jobs.submit", {"input": {"path": some_file}, "options": {"model": endless}})
        other.request("jobs.cancel", job)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_slow_deletion_of_an_upload_does_not_hold_its_client(
    start_with_dead_folder: Callable[..., RunningDaemon], endless: str, is_taken: bool
) -> None:
    daemon = start_with_dead_folder(0.5, DEAD_UPLOADS="1")
    with RawClient(daemon) as other:
        with RawClient(daemon) as client:
            upload = client.request("uploads.create")["id"]
            client.request("uploads.append", {"id": upload, "data": b"not audio"})
            if is_taken:
                ask = {"input": {"upload": upload}, "options": {"model": endless}}
                job = client.request("jobs.submit", ask)
                assert client.request("jobs.cancel", job)["status"] == "cancelled"
        until(lambda: other.request("daemon.status")["clients"] == 1)


def test_hanging_work_does_not_block_shutdown(start_with_dead_folder: Callable[..., RunningDaemon]) -> None:
    daemon = start_with_dead_folder(0.5, DEAD_STORE="1")
    with RawClient(daemon) as client:
        client.send([0, 1, "models.list", []])
        client.request("daemon.status")
        daemon.signal(signal.SIGTERM)
        until(lambda: not Path(daemon.socket).exists())
        Path(daemon.socket).touch()
        daemon.wait()
    assert "ending without it" in daemon.log()
    assert Path(daemon.socket).exists(), "it may now belong to another daemon"
