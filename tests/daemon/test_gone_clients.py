"""When a client disconnects, everything that existed only for it is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_client import RawClient, until

from whisperd_testing import RunningDaemon, batches, write_tone


def uploads(daemon: RunningDaemon) -> list[Path]:
    return list((daemon.folder / "state" / "uploads").iterdir())


def status_of(client: RawClient, job: dict[str, str]) -> str:
    return str(client.request("jobs.show", job)["status"])


def test_disconnecting_during_a_request(daemon: RunningDaemon, endless: str, some_file: str) -> None:
    with RawClient(daemon) as other:
        with RawClient(daemon) as client:
            ask = {"input": {"path": some_file}, "options": {"model": endless}, "detach": True}
            job = client.request("jobs.submit", ask)
            client.send([0, 1, "jobs.wait", [job]], [0, 2, "jobs.wait", [job]])
        until(lambda: other.request("daemon.status")["clients"] == 1)
        assert status_of(other, job) == "queued"  # it was detached
        other.request("jobs.cancel", job)
    assert "Traceback" not in daemon.log()


def test_disconnecting_during_an_upload(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as other:
        kept = other.request("uploads.create")["id"]
        with RawClient(daemon) as client:
            gone = client.request("uploads.create")["id"]
            client.request("uploads.append", {"id": gone, "data": b"x" * 100_000})
            # A chunk that is being written, and half a chunk.
            client.send([0, 1, "uploads.append", [{"id": gone, "data": b"x" * 1_000_000}]])
            client.send(b"\x94\x00\x02\xaeuploads.append\x91")
            assert sorted(path.name for path in uploads(daemon)) == sorted([kept, gone])
        until(lambda: [path.name for path in uploads(daemon)] == [kept])
        assert other.request("uploads.append", {"id": kept, "data": b"x"})["size"] == 1


def test_a_queued_job_is_cancelled_unless_it_is_detached(
    daemon: RunningDaemon, endless: str, some_file: str
) -> None:
    ask = {"input": {"path": some_file}, "options": {"model": endless}}
    with RawClient(daemon) as other:
        others = other.request("jobs.submit", ask)
        with RawClient(daemon) as client:
            attached = client.request("jobs.submit", ask)
            detached = client.request("jobs.submit", {**ask, "detach": True})
        until(lambda: status_of(other, attached) == "cancelled")
        assert other.request("jobs.show", attached)["error"]["code"] == "job.client_gone"
        for job in (detached, others):
            assert status_of(other, job) == "queued"
            other.request("jobs.cancel", job)


@pytest.mark.real
def test_a_running_job_is_cancelled_and_its_upload_deleted(
    daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    model = toy()
    (Path(model) / "hold").touch()
    sound = write_tone(tmp_path / "tone.wav", 3.0)
    with RawClient(daemon) as other:
        with RawClient(daemon) as client:
            upload = client.request("uploads.create")["id"]
            client.request("uploads.append", {"id": upload, "data": sound.read_bytes()})
            options = {"model": model, "vad": False, "language": "en"}
            job = client.request("jobs.submit", {"input": {"upload": upload}, "options": options})
            until(lambda: bool(batches(Path(model))))
            assert uploads(daemon)
        until(lambda: status_of(other, job) == "cancelled")
        until(lambda: not uploads(daemon))
        (Path(model) / "hold").unlink()
        # The engine is free for others.
        job = other.request("jobs.submit", {"input": {"path": str(sound)}, "options": options})
        assert other.request("jobs.wait", job)["text"]


def test_a_subscriber_that_disconnects(daemon: RunningDaemon, endless: str, some_file: str) -> None:
    with RawClient(daemon) as other:
        with RawClient(daemon) as client:
            client.request("events.subscribe", {"topics": ["jobs", "runtimes"]})
        for _ in range(20):
            job = other.request("jobs.submit", {"input": {"path": some_file}, "options": {"model": endless}})
            other.request("jobs.cancel", job)
    assert "Traceback" not in daemon.log()


def test_a_client_that_is_killed(daemon: RunningDaemon, endless: str, some_file: str) -> None:
    ask = (
        "import sys, time; from whisperd.client import connect\n"
        "client = connect(sys.argv[1], start=False)\n"
        "print(client.submit(sys.argv[2], model=sys.argv[3]), flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", ask, daemon.socket, some_file, endless], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        job = {"id": process.stdout.readline().decode().strip()}
        with RawClient(daemon) as other:
            assert status_of(other, job) == "queued"
            os.kill(process.pid, signal.SIGKILL)
            until(lambda: status_of(other, job) == "cancelled")


def test_uploads_of_a_killed_daemon_are_deleted(daemon: RunningDaemon) -> None:
    client = RawClient(daemon)
    client.request("uploads.create")
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    client.socket.close()
    assert uploads(daemon)
    daemon.start()
    assert not uploads(daemon)
