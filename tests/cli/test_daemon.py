"""The output of `whisperctl daemon`. `tests/daemon` tests the life cycle of the daemon."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable

import pytest

from whisperd.cli.commands import daemon as commands
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import RunningDaemon


def test_status(shared: RunningDaemon) -> None:
    done = shared.ctl("daemon", "status")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert re.search(rf", process {shared.pid}, up \d+:\d\d", lines[0])
    assert lines[1] == f"socket   {shared.socket}"
    assert shared.ctl("daemon", "status", "--json").json["pid"] == shared.pid


def test_status_shows_the_precision_of_a_loaded_runtime(
    shared: RunningDaemon, toy: Callable[..., str], tone: str
) -> None:
    model = toy("precise")
    assert shared.ctl("transcribe", "--model", model, "--no-vad", tone).status == 0
    (row,) = [one for one in shared.ctl("daemon", "status").out.splitlines() if one.startswith(f"{model} ")]
    assert row.removeprefix(model).split()[:3] == ["loaded", "toy-cpu", "int8"]


def test_status_shows_why_a_runtime_failed(shared: RunningDaemon, toy: Callable[..., str], tone: str) -> None:
    model = toy("broken", load_error="bad weights")
    failed = shared.ctl("transcribe", "--model", model, tone)
    lines = shared.ctl("daemon", "status").out.splitlines()
    (row,) = [line for line in lines if line.startswith(f"{model} ")]
    assert row.removeprefix(model).split()[0] == "failed"
    message, fix = failed.err.removeprefix("whisperctl: ").splitlines()
    assert fix.startswith(lines[lines.index(f"{model}: {message}") + 1])


def test_no_daemon(make_daemon: Callable[..., RunningDaemon]) -> None:
    daemon = make_daemon()
    for verb in ("status", "reload"):
        done = daemon.ctl("daemon", verb)
        assert (done.status, done.out) == (3, "")
        assert "`whisperctl daemon start`" in done.err


def test_stopping_without_a_daemon_succeeds(make_daemon: Callable[..., RunningDaemon]) -> None:
    daemon = make_daemon()
    done = daemon.ctl("daemon", "stop")
    assert (done.status, done.out, done.err) == (0, "whisperd is not running\n", "")
    assert daemon.ctl("daemon", "stop", "--json").json["pid"] is None
    assert daemon.ctl("daemon", "stop", "--quiet").out == ""


@pytest.mark.skipif(os.name != "posix", reason="sockets are files on POSIX")
def test_an_unusable_socket_does_not_mean_that_no_daemon_runs(
    make_daemon: Callable[..., RunningDaemon],
) -> None:
    daemon = make_daemon()
    for verb in ("stop", "restart"):
        done = daemon.ctl("daemon", verb, "--socket", f"{__file__}/d.sock", "--json")
        assert (done.status, done.json["error"]["code"]) == (3, "socket.not_usable")


def test_invalid_settings_do_not_stop_the_daemon(shared: RunningDaemon) -> None:
    before = shared.config.read_text() if shared.config.exists() else ""
    shared.settings("[daemon]\ngrace_period_s = 'long'\n")
    try:
        done = shared.ctl("daemon", "reload", "--json")
        assert (done.status, done.json["error"]["code"]) == (1, "config.invalid")
        done = shared.ctl("daemon", "restart", "--json")
        assert (done.status, done.json["error"]["code"]) == (1, "config.invalid")
        assert shared.ctl("daemon", "status", "--json").json["pid"] == shared.pid  # it still runs
    finally:
        shared.settings(before)
    assert shared.ctl("daemon", "reload", "--quiet").out == ""


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_log_that_is_a_folder_is_an_error(make_daemon: Callable[..., RunningDaemon]) -> None:
    daemon = make_daemon()
    (daemon.folder / "state" / "daemon.log").mkdir(parents=True)
    done = daemon.ctl("daemon", "logs", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "log.unreadable")


def test_a_log_cannot_be_followed_as_one_json_document(shared: RunningDaemon) -> None:
    done = shared.ctl("daemon", "logs", "--json", "--follow")
    assert (done.status, done.json["error"]["code"]) == (2, "usage.invalid")


def test_the_fix_for_a_daemon_that_does_not_end_names_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would kill the usual daemon in its place."""
    monkeypatch.setattr(commands, "CLEAN_UP_TIMEOUT_S", 0.0)
    with pytest.raises(WhisperdError, match="does not stop") as caught:
        commands._wait_for_end(argparse.Namespace(socket="/run/w/d.sock"), os.getpid(), 0.0)
    assert "`whisperctl --socket /run/w/d.sock daemon stop --force`" in caught.value.fix
