"""Sockets opened by the service manager: used, left in place, and never shared by two daemons."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from managers import end, hearing, listening, start_passing

from whisperd.client import wire
from whisperd.service_manager.activation import passed_files, take_socket
from whisperd_testing import LIMIT_S, RunningDaemon

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file descriptors are passed on POSIX")

MakeDaemon = Callable[..., RunningDaemon]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients connect before the daemon runs, which may take long to start on a busy computer."""
    monkeypatch.setattr(wire, "PATIENCE_S", LIMIT_S)


def test_a_passed_socket_is_used_and_left_in_place(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with listening(daemon.socket) as passed, ThreadPoolExecutor(1) as threads:
        inode = Path(daemon.socket).stat().st_ino
        early = threads.submit(daemon.connect)  # waits for the daemon
        process = start_passing(daemon, passed)
        with early.result(LIMIT_S) as client:
            status = client.daemon.status()
        assert (status["pid"], status["socket"]) == (process.pid, daemon.socket)
        assert daemon.ctl("daemon", "start", "--json").json["pid"] == process.pid

        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert Path(daemon.socket).stat().st_ino == inode  # the socket of the manager, still there

        process = start_passing(daemon, passed)  # the next daemon uses the same socket
        with daemon.connect() as again:
            assert again.daemon.status()["pid"] == process.pid
        end(daemon)


def test_a_killed_daemon_leaves_a_passed_socket_too(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with listening(daemon.socket) as passed, hearing() as (manager, address):
        start_passing(daemon, passed, env={"NOTIFY_SOCKET": address})
        manager.until("READY")
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        assert Path(daemon.socket).exists()
        start_passing(daemon, passed, env={"NOTIFY_SOCKET": address})
        manager.until("READY")
        end(daemon)


def test_a_second_daemon_on_a_passed_socket_is_refused(make_daemon: MakeDaemon) -> None:
    """As on any other socket."""
    daemon = make_daemon()
    with listening(daemon.socket) as passed:
        start_passing(daemon, passed)
        with daemon.connect() as client:
            client.daemon.status()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "whisperd"],
            env=daemon.env,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 3
        assert b"A daemon is already running" in done.stderr
        end(daemon)


def test_a_service_takes_over_from_a_daemon_started_by_hand(make_daemon: MakeDaemon) -> None:
    """The manager replaces the socket of that daemon, for example when a package's socket is enabled."""
    by_hand = make_daemon().start()
    service = make_daemon(env={name: by_hand.env[name] for name in ("WHISPERD_SOCKET", "WHISPERD_STATE_DIR")})
    service.socket = by_hand.socket
    Path(by_hand.socket).unlink()
    with listening(by_hand.socket) as passed:
        process = start_passing(service, passed)
        with service.connect() as client:
            assert client.daemon.status()["pid"] == process.pid
        assert by_hand.wait() == 0
        end(service)


def test_a_passed_socket_has_to_listen(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with hearing() as (manager, address), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wrong:
        process = start_passing(daemon, wrong, env={"NOTIFY_SOCKET": address})
        assert "cannot be used" in manager.next()["STATUS"]
        assert process.wait(LIMIT_S) == 3


def test_exit_when_idle_waits_for_clients(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.settings("[daemon]\nexit_when_idle_s = 0.05\n")
    with listening(daemon.socket) as passed, socket.socket(socket.AF_UNIX) as early:
        early.connect(daemon.socket)  # before the daemon starts, so that it is not idle at once
        process = start_passing(daemon, passed)
        with daemon.connect() as client:  # it stays while a client is connected
            early.close()
            client.daemon.status()
            assert client.daemon.status()["pid"] == process.pid
        assert process.wait(LIMIT_S) == 0
        assert Path(daemon.socket).exists()


def test_a_daemon_that_watches_a_folder_is_not_idle(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    (daemon.folder / "watched").mkdir()
    daemon.start()
    assert daemon.ctl("watch", "add", str(daemon.folder / "watched")).status == 0
    daemon.settings("[daemon]\nexit_when_idle_s = 0.05\n")
    with daemon.connect() as client:
        client.daemon.reload()
    assert daemon.ctl("watch", "pause", str(daemon.folder / "watched")).status == 0
    assert daemon.wait() == 0, daemon.log()  # not earlier: the command still reached it


def test_exit_when_idle_takes_effect_at_a_reload(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    daemon.settings("[daemon]\nexit_when_idle_s = 0.05\n")
    with daemon.connect() as client:
        client.daemon.reload()
    assert daemon.wait() == 0


def test_listen_variables_are_parsed() -> None:
    mine = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:whisperd"}
    assert passed_files(mine, 7) == {3: "http", 4: "whisperd"}
    assert passed_files(mine, 8) == {}
    assert passed_files({**mine, "LISTEN_FDNAMES": "http"}, 7) == {3: "http", 4: None}
    assert passed_files({"LISTEN_PID": "7", "LISTEN_FDS": "1"}, 7) == {3: None}
    for wrong in ("", "-1", "x", "99999999", "9" * 5000):
        assert passed_files({**mine, "LISTEN_FDS": wrong}, 7) == {}


def test_children_inherit_no_listen_variables() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert take_socket(environment, pid=2) is None
    assert environment == {"HOME": "/"}


def test_a_closed_descriptor_is_an_error() -> None:
    code = (
        "import os; os.closerange(3, 64); from whisperd.service_manager.activation import take_socket\n"
        "try: take_socket({'LISTEN_PID': '1', 'LISTEN_FDS': '1'}, pid=1)\n"
        "except Exception as error: print(error.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "socket.not_passed"


def test_the_error_for_a_wrong_descriptor_has_a_fix() -> None:
    read, write = os.pipe()
    try:
        environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
        code = (
            f"import os; os.dup2({read}, 3)\n"
            "from whisperd.service_manager.activation import take_socket\n"
            f"try: take_socket({environment!r}, pid=1)\n"
            "except Exception as error: print(error.fix)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, pass_fds=(read,)
        )
        assert "daemon install" in done.stdout
    finally:
        os.close(read)
        os.close(write)
