"""Notifications to the service manager; a stalled event loop sends no watchdog pings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from managers import Manager, hearing

from whisperd.daemon.reporting import feed_watchdog
from whisperd.service_manager.notify import Notifier, address_of, message, watchdog_interval_s
from whisperd_testing import LIMIT_S, RunningDaemon

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="service managers with sockets are POSIX")

MakeDaemon = Callable[..., RunningDaemon]


@pytest.fixture
def heard() -> Iterator[tuple[Manager, str]]:
    with hearing() as both:
        yield both


def started(make_daemon: MakeDaemon, address: str, **env: str) -> RunningDaemon:
    return make_daemon(env={"NOTIFY_SOCKET": address, **env}).start()


def test_ready_reloading_and_stopping_are_reported(
    make_daemon: MakeDaemon, heard: tuple[Manager, str]
) -> None:
    manager, address = heard
    daemon = started(make_daemon, address)
    said = manager.next()
    assert said["READY"] == "1"
    assert said["MAINPID"] == str(daemon.pid)
    assert said["STATUS"] == "no job; loaded: nothing"

    daemon.signal(signal.SIGHUP)
    reloading = manager.until("RELOADING")
    assert reloading["RELOADING"] == "1"
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert manager.until("READY")["READY"] == "1"

    daemon.signal(signal.SIGTERM)
    stopping = manager.until("STOPPING")
    assert stopping["STOPPING"] == "1"
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) == 25_000_000  # 10 s for the jobs, 15 s to clean up
    assert daemon.wait() == 0


def test_a_failed_reload_ends_with_ready(make_daemon: MakeDaemon, heard: tuple[Manager, str]) -> None:
    manager, address = heard
    daemon = started(make_daemon, address)
    daemon.settings("[daemon]\nnonsense = 1\n")
    with daemon.connect() as client, pytest.raises(Exception, match="nonsense"):
        client.daemon.reload()
    manager.until("RELOADING")
    assert manager.until("READY")["READY"] == "1"


def test_loaded_runtimes_are_in_the_status(
    make_daemon: MakeDaemon, heard: tuple[Manager, str], toy: Callable[..., str]
) -> None:
    manager, address = heard
    daemon = started(make_daemon, address)
    with daemon.connect() as client:
        client.runtimes.create("spoken", toy())
        client.runtimes.load("spoken")
    while "spoken" not in manager.until("STATUS")["STATUS"]:
        pass


def test_an_abstract_address(make_daemon: MakeDaemon) -> None:
    if sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    name = f"whisperd-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    try:
        started(make_daemon, f"@{name}")
        assert manager.next()["READY"] == "1"
    finally:
        manager.close()


def test_a_failed_start_is_explained_in_the_status(
    make_daemon: MakeDaemon, heard: tuple[Manager, str]
) -> None:
    manager, address = heard
    daemon = make_daemon(env={"NOTIFY_SOCKET": address})
    daemon.settings("[daemon]\nnonsense = 1\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "whisperd"],
        env=daemon.env,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 3
    assert "nonsense" in manager.next()["STATUS"]


def test_the_daemon_starts_without_its_manager(make_daemon: MakeDaemon) -> None:
    daemon = started(make_daemon, "/nowhere/at/all")
    assert daemon.ctl("daemon", "status").status == 0


def test_watchdog_pings_stop_with_the_process(make_daemon: MakeDaemon, heard: tuple[Manager, str]) -> None:
    manager, address = heard
    daemon = started(make_daemon, address, WATCHDOG_USEC="20000")
    for _ in range(3):
        assert manager.until("WATCHDOG")["WATCHDOG"] == "1"
    daemon.signal(signal.SIGSTOP)
    assert manager.is_silent(for_s=0.5)
    daemon.signal(signal.SIGCONT)
    manager.until("WATCHDOG")


@pytest.mark.anyio
async def test_a_stalled_loop_stops_the_pings(heard: tuple[Manager, str]) -> None:
    manager, address = heard
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000"})
    silent: list[bool] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed_watchdog, notifier)
        for _ in range(3):
            await anyio.to_thread.run_sync(partial(manager.until, "WATCHDOG"))
        # The loop is blocked waiting for this thread, fifty times as long as the watchdog interval.
        listener = threading.Thread(target=lambda: silent.append(manager.is_silent(for_s=0.1)))
        listener.start()
        listener.join()
        assert silent == [True]
        await anyio.to_thread.run_sync(partial(manager.until, "WATCHDOG"))  # and resume with the loop
        tasks.cancel_scope.cancel()
    notifier.close()


@pytest.mark.anyio
async def test_without_a_watchdog_there_are_no_pings() -> None:
    await feed_watchdog(Notifier({}))  # returns at once


def test_children_inherit_no_notify_variables(heard: tuple[Manager, str]) -> None:
    environment = {"NOTIFY_SOCKET": heard[1], "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier(environment).close()
    assert environment == {"HOME": "/"}


def test_a_full_socket_is_no_error() -> None:
    with hearing() as (_, address):
        notifier = Notifier({"NOTIFY_SOCKET": address})
        for _ in range(10_000):
            notifier.alive()
        notifier.close()


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_the_watchdog_interval(environment: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environment, pid=7) == interval_s


@pytest.mark.parametrize(
    ("named", "address"),
    [("/run/notify", "/run/notify"), ("@hidden", "\0hidden"), ("", None), ("@", None), ("run", None)],
)
def test_notify_addresses(named: str, address: str | None) -> None:
    assert address_of(named) == address


@given(st.text())
def test_a_value_cannot_set_another_variable(status: str) -> None:
    lines = message(STATUS=status, MAINPID=1).decode().split("\n")
    assert len(lines) == 2
    assert lines[1] == "MAINPID=1"


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = Notifier({})
    notifier.ready("fine")
    assert not notifier.is_heard
