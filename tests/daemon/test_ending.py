"""How the daemon stops: it finishes running work, then ends every process that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from raw_client import RawClient, until

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S, RunningDaemon, batches, write_tone

MakeDaemon = Callable[..., RunningDaemon]
Toy = Callable[..., str]

GRACE = "[daemon]\ngrace_period_s = {}\n"


class HeldJob:
    """A job whose engine computes until it is released, and a client that waits for the job."""

    def __init__(self, daemon: RunningDaemon, model: str, sound: Path) -> None:
        self.hold = Path(model) / "hold"
        self.hold.touch()
        self.client = RawClient(daemon)
        ask = {"input": {"path": str(sound)}, "options": {"model": model, "vad": False, "language": "en"}}
        self.job = self.client.request("jobs.submit", ask)
        until(lambda: bool(batches(Path(model))))
        self.client.send([0, 1, "jobs.wait", [self.job]])

    def error(self) -> str:
        """Return the error code that the waiting client gets."""
        with pytest.raises(WhisperdError) as caught:
            self.client.answer(1)
        return caught.value.code


@pytest.fixture
def hold(toy: Toy, tmp_path: Path) -> Iterator[Callable[[RunningDaemon], HeldJob]]:
    """Return a function that runs a held job on a daemon."""
    sound = write_tone(tmp_path / "tone.wav", 3.0)
    made: list[HeldJob] = []

    def begin(daemon: RunningDaemon) -> HeldJob:
        made.append(HeldJob(daemon, toy(), sound))
        return made[-1]

    yield begin
    for one in made:
        one.client.socket.close()


@contextmanager
def nothing_left(daemon: RunningDaemon) -> Iterator[None]:
    """Check that after the block no process, socket or upload of the daemon is left."""
    children = daemon.children()
    yield
    _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert alive == []
    assert not Path(daemon.socket).exists()
    assert not list((daemon.folder / "state" / "uploads").iterdir())


# Graceful shutdown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_daemon_stops_at_once(make_daemon: MakeDaemon, number: signal.Signals) -> None:
    daemon = make_daemon()
    daemon.settings(GRACE.format(3600))
    daemon.start()
    with RawClient(daemon) as client, nothing_left(daemon):
        client.request("daemon.status")
        daemon.signal(number)
        assert daemon.wait() == 0
        assert client.is_closed()
    assert f"received {number.name}" in daemon.log()
    assert "has ended" in daemon.log()


@pytest.mark.real
def test_running_work_may_finish(daemon: RunningDaemon, hold: Callable[..., HeldJob]) -> None:
    held = hold(daemon)
    with nothing_left(daemon):
        daemon.signal(signal.SIGTERM)
        until(lambda: "stopping: 1 job" in daemon.log())
        with RawClient(daemon) as other:  # it still answers, but accepts no more work
            assert other.request("daemon.status")["jobs"]["running"] == 1
            with pytest.raises(WhisperdError) as caught:
                other.request("jobs.submit", {"input": {"path": "/etc/passwd"}})
            assert caught.value.code == "daemon.stopping"
        held.hold.unlink()
        assert held.client.answer(1)["text"] == "transcribe 3.00 s"
        assert daemon.wait() == 0


@pytest.mark.real
def test_work_exceeding_the_grace_period_is_cancelled(
    make_daemon: MakeDaemon, hold: Callable[..., HeldJob]
) -> None:
    daemon = make_daemon()
    daemon.settings(GRACE.format(0.3))
    held = hold(daemon.start())
    with nothing_left(daemon):
        daemon.signal(signal.SIGTERM)
        assert held.error() == "daemon.stopping"
        assert daemon.wait() == 0
    assert "1 jobs did not finish in time" in daemon.log()


def test_a_job_that_has_not_begun_is_cancelled_too(
    make_daemon: MakeDaemon, endless: str, some_file: str
) -> None:
    daemon = make_daemon()
    daemon.settings(GRACE.format(0))
    daemon.start()
    with RawClient(daemon) as client, RawClient(daemon) as follower:
        ask = {"input": {"path": some_file}, "options": {"model": endless}, "detach": True}
        job = client.request("jobs.submit", ask)
        client.send([0, 1, "jobs.wait", [job]])
        follower.request("events.subscribe", {"topics": ["jobs"]})
        until(lambda: len(daemon.workers()) == 1)
        with nothing_left(daemon):
            daemon.signal(signal.SIGTERM)
            with pytest.raises(WhisperdError) as caught:
                client.answer(1)
            assert caught.value.code == "daemon.stopping"
            [_, _, [event]] = follower.receive()
            assert (event["type"], event["error"]["code"]) == ("transcription.cancelled", "daemon.stopping")
            assert daemon.wait() == 0


def test_an_unfinished_upload_is_deleted(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as client, nothing_left(daemon):
        upload = client.request("uploads.create")["id"]
        client.request("uploads.append", {"id": upload, "data": b"x"})
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


@pytest.mark.real
def test_a_client_stops_the_daemon(daemon: RunningDaemon, hold: Callable[..., HeldJob]) -> None:
    held = hold(daemon)
    with nothing_left(daemon), RawClient(daemon) as client:
        answer = client.request("daemon.stop")
        assert answer == {
            "pid": daemon.pid,
            "grace_period": 10.0,
            "active_jobs": 1,
            "detached_jobs": 0,
        }
        held.hold.unlink()
        assert held.client.answer(1)["text"] == "transcribe 3.00 s"
        assert daemon.wait() == 0


# Immediate shutdown


@pytest.mark.real
@pytest.mark.parametrize("first", ["SIGTERM", "SIGINT", "daemon.stop"])
def test_a_second_signal_stops_at_once(
    daemon: RunningDaemon, hold: Callable[..., HeldJob], first: str
) -> None:
    held = hold(daemon)
    with nothing_left(daemon):
        if first == "daemon.stop":
            with RawClient(daemon) as client:
                client.request(first)
        else:
            daemon.signal(signal.Signals[first])
        until(lambda: "stopping: 1 job" in daemon.log())
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 1
    assert held.client.is_closed()
    assert "a second signal" in daemon.log()


@pytest.mark.real
@pytest.mark.parametrize("is_busy", [True, False])
def test_children_end_with_a_killed_daemon(
    daemon: RunningDaemon, hold: Callable[..., HeldJob], is_busy: bool, toy: Toy, tmp_path: Path
) -> None:
    """No process is left to clean up: each child notices on its own."""
    held = hold(daemon)
    if not is_busy:
        held.hold.unlink()
        held.client.answer(1)
    until(lambda: len(daemon.children()) == 2)  # a worker, and a decoder, at work or ready
    children = daemon.children()
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert alive == []
    assert held.client.is_closed()


def test_a_loading_worker_ends_with_a_killed_daemon(
    daemon: RunningDaemon, endless: str, some_file: str
) -> None:
    with RawClient(daemon) as client:
        client.request("jobs.submit", {"input": {"path": some_file}, "options": {"model": endless}})
        until(lambda: len(daemon.workers()) == 1)
        children = daemon.children()
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert alive == []


# In a terminal


@pytest.mark.real
def test_ctrl_c_in_a_terminal_stops_gracefully(make_daemon: MakeDaemon, hold: Callable[..., HeldJob]) -> None:
    """A terminal sends Ctrl-C to all of its processes; the daemon's workers must not receive it."""
    daemon = make_daemon()
    daemon.process = subprocess.Popen(
        [sys.executable, "-P", "-m", "whisperd"],
        env=daemon.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until(lambda: "listens on" in daemon.log())
    held = hold(daemon)
    with nothing_left(daemon):
        os.killpg(daemon.pid, signal.SIGINT)
        until(lambda: "stopping: 1 job" in daemon.log())
        held.hold.unlink()
        assert held.client.answer(1)["text"] == "transcribe 3.00 s"
        out, said = daemon.process.communicate(timeout=LIMIT_S)
    assert daemon.process.returncode == 0
    assert out == b""
    assert b"listens on" in said and b"received SIGINT" in said
    assert b"Traceback" not in said


# Requests during shutdown


def test_requests_in_flight_are_answered_or_the_connection_is_closed(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    answers: list[Any] = []

    def ask_on() -> None:
        with RawClient(daemon) as client:
            try:
                while True:
                    answers.append(client.request("daemon.config"))
            except (EOFError, BrokenPipeError, ConnectionResetError, WhisperdError):
                pass

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 50)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert "Traceback" not in daemon.log()
