"""One daemon per state folder, and how to deal with a daemon that does not respond."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import gethostname

import anyio
import pytest
from filelock import FileLock

from whisperd.client import aconnect
from whisperd.client import asynchronous as asynchronous_client
from whisperd.daemon.state import claim_state
from whisperd.rpc.errors import WhisperdError
from whisperd.running import Running, find_running, read_running, write_running
from whisperd_testing import LIMIT_S, RunningDaemon

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs Unix sockets and signals")


def state(daemon: RunningDaemon) -> Path:
    return Path(daemon.env["WHISPERD_STATE_DIR"])


def test_a_daemon_records_its_process_and_socket(daemon: RunningDaemon) -> None:
    me = Running(pid=daemon.pid, socket=daemon.socket, config=daemon.env["WHISPERD_CONFIG"])
    assert find_running(state(daemon)) == me
    assert stat.S_IMODE((state(daemon) / "daemon.json").stat().st_mode) == 0o600
    daemon.ctl("daemon", "stop")
    daemon.wait()
    assert find_running(state(daemon)) is None
    assert read_running(state(daemon)) is None


def test_the_record_of_a_dead_daemon_is_ignored(daemon: RunningDaemon) -> None:
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    assert read_running(state(daemon)) is not None
    assert find_running(state(daemon)) is None
    assert daemon.ctl("daemon", "start").status == 0


@pytest.mark.parametrize(
    "said", ["", "{", "[]", "{}", '{"pid": "x", "socket": 1}', '{"pid": 1e999, "socket": ""}']
)
def test_an_invalid_record_is_ignored(tmp_path: Path, said: str) -> None:
    write_running(tmp_path, Running(pid=1, socket="/s"))
    (tmp_path / "daemon.json").write_text(said)
    assert read_running(tmp_path) is None


@pytest.mark.anyio
async def test_a_state_folder_without_locks_is_used_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    caplog.set_level("INFO", "whisperd")
    async with claim_state(tmp_path, "/s"):
        assert os.strerror(errno.ENOLCK) in caplog.text and sys.exception() is None
        assert read_running(tmp_path) is None
    assert "has ended" in caplog.text


@pytest.mark.anyio
async def test_without_room_for_its_record_a_daemon_leaves_none_of_a_dead_one(tmp_path: Path) -> None:
    """Another process may have that id by now, and would be killed in its place."""
    write_running(tmp_path, Running(pid=1, socket="/s"))
    (tmp_path / "daemon.json.new").mkdir()  # so that nothing can be written, as on a full disk
    async with claim_state(tmp_path, "/s"):
        assert find_running(tmp_path) is None


def test_a_second_daemon_on_another_socket_is_refused(daemon: RunningDaemon) -> None:
    with tempfile.TemporaryDirectory(prefix="wd-") as short:
        other = f"{short}/other.sock"
        done = daemon.ctl("--socket", other, "daemon", "start", "--json")
        error = done.json["error"]
        assert (done.status, error["code"]) == (3, "state.in_use")
        assert (error["data"]["pid"], error["data"]["socket"]) == (daemon.pid, daemon.socket)
        assert "`whisperctl daemon stop`" in error["fix"] and "WHISPERD_STATE_DIR" in error["fix"]
        assert not Path(other).exists()
        # With its own state folder it may run.
        daemon.env["WHISPERD_STATE_DIR"] = f"{short}/state"
        assert daemon.ctl("--socket", other, "daemon", "start").status == 0
        assert daemon.ctl("--socket", other, "daemon", "stop").status == 0
        daemon.env["WHISPERD_STATE_DIR"] = str(daemon.folder / "state")
    assert daemon.ctl("daemon", "status").status == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("host", "message", "fix"),
    [
        (gethostname(), "its socket was deleted", "daemon stop --force"),
        ("another", "A daemon on another already uses", "Stop it there"),
    ],
)
async def test_a_state_folder_in_use_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, message: str, fix: str
) -> None:
    monkeypatch.setattr("whisperd.locks.ENDING_TIMEOUT_S", 0.2)
    write_running(tmp_path, Running(pid=1, socket="/s", host=host))
    with FileLock(tmp_path / "daemon.lock"), pytest.raises(WhisperdError) as caught:
        async with claim_state(tmp_path, "/s"):
            pass
    assert caught.value.code == "state.in_use"
    assert message in caught.value.message and fix in caught.value.fix


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("running", "is_alerted"),
    [
        (Running(pid=1, socket="/s"), True),
        (Running(pid=1, socket="/gone"), True),
        (Running(pid=1, socket="/s", host="another"), False),
        (Running(pid=os.getpid(), socket="/s"), False),
    ],
    ids=["same socket", "another socket", "another host", "own number in another container"],
)
async def test_only_a_daemon_of_this_computer_is_told_that_its_socket_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: Running, is_alerted: bool
) -> None:
    monkeypatch.setattr("whisperd.locks.ENDING_TIMEOUT_S", 0.2)
    alerted: list[int] = []
    monkeypatch.setattr("whisperd.daemon.state.HANG_UP", signal.SIGTERM)  # Windows has no such signal
    monkeypatch.setattr("whisperd.daemon.state.daemon_process", alerted.append)
    write_running(tmp_path, running)
    with FileLock(tmp_path / "daemon.lock"), pytest.raises(WhisperdError, match="state folder"):
        async with claim_state(tmp_path, "/s"):
            pass
    assert alerted == [running.pid] * is_alerted


def test_a_daemon_that_cleans_up_is_not_killed_by_that() -> None:
    code = """
import anyio, signal
from whisperd.daemon.signals import receive_signals
async def main():
    with receive_signals():
        pass
    signal.raise_signal(signal.SIGHUP)
anyio.run(main)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestForce:
    @pytest.fixture
    def stopped(self, daemon: RunningDaemon) -> Iterator[RunningDaemon]:
        """A daemon that does not respond."""
        daemon.signal(signal.SIGSTOP)
        yield daemon
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.signal(signal.SIGCONT)  # so that it can be stopped

    def test_a_daemon_that_does_not_answer_is_killed(self, stopped: RunningDaemon) -> None:
        assert stopped.ctl("daemon", "stop", "--force").out == "whisperd has stopped\n"
        assert stopped.wait() == -signal.SIGKILL
        assert stopped.ctl("daemon", "stop", "--force").out == "whisperd is not running\n"

    def test_its_log_is_shown_at_once(self, stopped: RunningDaemon) -> None:
        log = str(state(stopped) / "daemon.log")
        done = stopped.ctl("daemon", "logs", "--socket", stopped.socket, "--json")
        assert (done.json["path"], done.err) == (log, "")

    def test_restart_replaces_it(self, stopped: RunningDaemon) -> None:
        done = stopped.ctl("daemon", "restart", "--force", "--json")
        assert done.status == 0, done
        assert done.json["pid"] != stopped.pid

    @pytest.mark.real
    def test_its_detached_jobs_continue_in_the_new_daemon(
        self, daemon: RunningDaemon, held: Path, ten_minutes: Path
    ) -> None:
        submitted = daemon.ctl("transcribe", "--detach", "--no-vad", "--model", str(held), str(ten_minutes))
        os.kill(daemon.pid, signal.SIGSTOP)
        (held / "hold").unlink()
        assert daemon.ctl("daemon", "restart", "--force").status == 0
        done = daemon.ctl("jobs", "wait", submitted.out.strip())
        assert done.status == 0, done

    def test_a_daemon_on_another_socket_is_left_alone(self, daemon: RunningDaemon) -> None:
        done = daemon.ctl("--socket", f"{daemon.socket}2", "daemon", "stop", "--force", "--json")
        assert (done.status, done.json["error"]["code"]) == (1, "daemon.elsewhere")
        assert daemon.ctl("daemon", "status").status == 0

    def test_no_process_but_a_daemon_is_killed(self, make_daemon: Callable[..., RunningDaemon]) -> None:
        """On another computer that shares the state folder, the daemon's id belongs to some other process."""
        unstarted = make_daemon()
        folder = state(unstarted)
        folder.mkdir()
        command = [sys.executable, "-c", "input()", "whisperd.log"]  # such as a pager
        bystander = subprocess.Popen(command, stdin=subprocess.PIPE)
        with bystander, FileLock(folder / "daemon.lock"):
            write_running(folder, Running(pid=bystander.pid, socket=unstarted.socket, host="another"))
            done = unstarted.ctl("daemon", "stop", "--force", "--json")
            assert bystander.poll() is None
            bystander.communicate(b"\n", LIMIT_S)
        error = done.json["error"]
        assert (done.status, error["code"]) == (1, "daemon.elsewhere")
        assert "runs on another" in error["message"]

    @pytest.mark.slow
    def test_commands_explain_that_it_does_not_answer(self, stopped: RunningDaemon) -> None:
        done = stopped.ctl("jobs", "list")
        assert done.status == 3
        assert "does not respond" in done.err and "daemon restart --force" in done.err


@pytest.mark.anyio
async def test_the_asynchronous_client_times_out(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynchronous_client, "PATIENCE_S", 0.01)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        with pytest.raises(WhisperdError) as caught, anyio.fail_after(LIMIT_S):
            async with aconnect(daemon.socket, start=False):
                pass
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert caught.value.code == "daemon.not_responding"


def test_unrelated_variables_of_the_shell_are_not_inherited(
    make_daemon: Callable[..., RunningDaemon],
) -> None:
    daemon = make_daemon(env={"VIRTUAL_ENV": "/project", "SECRET_KEY": "x", "https_proxy": "http://proxy:1"})
    command = [sys.executable, "-P", "-m", "whisperd.cli.main", "daemon", "start"]
    subprocess.run(command, env=daemon.env, check=True, capture_output=True, timeout=LIMIT_S)
    environment = daemon.ctl("daemon", "status", "--json").json["environment"]
    assert {"https_proxy", "PATH", "WHISPERD_STATE_DIR"} <= set(environment)
    assert {"VIRTUAL_ENV", "SECRET_KEY"}.isdisjoint(environment)
    shown = daemon.ctl("daemon", "status", "--verbose").out
    assert "https_proxy" in shown and "http://proxy:1" not in shown
    daemon.ctl("daemon", "stop")
