"""The settings file is reloaded on request, and either completely or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_client import RawClient, until

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S, RunningDaemon, toy_model

MakeDaemon = Callable[..., RunningDaemon]


@pytest.fixture(params=["signal", "method", "command"])
def reload(request: pytest.FixtureRequest) -> Callable[[RunningDaemon], None]:
    """Each way to reload the settings."""

    def by_signal(daemon: RunningDaemon) -> None:
        before = daemon.log().count("settings")
        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.log().count("settings") > before)

    def by_method(daemon: RunningDaemon) -> None:
        with RawClient(daemon) as client:
            assert client.request("daemon.reload") == {
                "config": str(daemon.config),
                "restart_needed": [],
            }

    def by_command(daemon: RunningDaemon) -> None:
        assert daemon.ctl("daemon", "reload").status == 0

    return {"signal": by_signal, "method": by_method, "command": by_command}[request.param]


def test_reload_reports_a_missing_settings_file(daemon: RunningDaemon) -> None:
    assert daemon.ctl("daemon", "reload").out.startswith(f"using default settings: {daemon.config}")
    daemon.settings("")
    assert daemon.ctl("daemon", "reload").out == f"reloaded the settings from {daemon.config}\n"


def test_new_settings_apply(daemon: RunningDaemon, reload: Callable[[RunningDaemon], None]) -> None:
    with RawClient(daemon) as old:
        old.request("daemon.status")  # it is connected under the old limits
        daemon.settings(
            "[limits]\nmax_connections = 2\nmax_frame_bytes = 4096\n"
            "[log]\nlevel = 'debug'\nmax_bytes = 10_000\nfiles = 1\n"
        )
        reload(daemon)
        until(lambda: old.request("daemon.status")["clients"] == 1)
        with RawClient(daemon) as new, RawClient(daemon) as too_many:
            assert too_many.error() == "daemon.too_many_connections"
            new.send([0, 1, "daemon.status", [{"x": "y" * 5000}]])
            assert new.error() == "rpc.frame_too_large"
        with pytest.raises(WhisperdError):  # a connection keeps its initial limits
            old.request("daemon.status", {"x": "y" * 5000})
        for _ in range(200):
            until(lambda: old.request("daemon.status")["clients"] == 1)  # a slot is free
            with RawClient(daemon) as loud:
                loud.send(b"\xc1")
                assert loud.is_closed()
    assert (daemon.folder / "state" / "daemon.log.1").stat().st_size <= 10_000
    assert not (daemon.folder / "state" / "daemon.log.2").exists()


def test_new_model_folders_apply(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    toy_model(tmp_path / "shelf" / "Somebody--thing")
    daemon = make_daemon(env={"WHISPERD_MODELS_DIR": str(tmp_path / "store")}).start()
    with RawClient(daemon) as client:
        with pytest.raises(WhisperdError):
            client.request("models.pull", {"name": "Somebody/thing"})
        daemon.settings(f"[models]\nfolders = ['~nobody-of-this-name/shelf', '{tmp_path / 'shelf'}']\n")
        client.request("daemon.reload")
        assert client.request("models.pull", {"name": "Somebody/thing"})["installed"]


def test_settings_that_need_a_restart_are_reported(daemon: RunningDaemon) -> None:
    daemon.settings("[decoder]\nprocesses = 3\nmax_window_s = 20\nmemory_bytes = 1000000000\n")
    with RawClient(daemon) as client:
        assert client.request("daemon.reload")["restart_needed"] == ["decoder.processes"]
        assert client.request("daemon.reload")["restart_needed"] == ["decoder.processes"]
    assert "decoder.processes will take effect after" in daemon.ctl("daemon", "reload").out
    daemon.settings("")
    assert "daemon restart" not in daemon.ctl("daemon", "reload").out


def test_the_log_level_applies_on_reload(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.settings("[log]\nlevel = 'warning'\n")
    daemon.start()
    assert daemon.log() == ""
    daemon.settings("[log]\nlevel = 'info'\n")
    assert daemon.ctl("daemon", "reload").status == 0
    assert "settings read again" in daemon.log()
    daemon.settings("[log]\nlevel = 'error'\n")
    assert daemon.ctl("daemon", "reload").status == 0
    size = len(daemon.log())
    assert daemon.ctl("daemon", "reload").status == 0
    assert len(daemon.log()) == size


def test_the_command_line_overrides_the_file(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.settings("[log]\nlevel = 'info'\n")
    daemon.start("--log-level", "error")
    assert daemon.ctl("daemon", "reload").status == 0
    assert daemon.log() == ""


def test_a_settings_file_named_on_the_command_line(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    other = daemon.folder / "other.toml"
    other.write_text("[limits]\nmax_jobs = 3\n")
    daemon.start("--config", str(other))
    with RawClient(daemon) as client:
        answer = client.request("daemon.config")
        assert answer["path"] == str(other)
        assert "\nmax_jobs = 3" in answer["content"]
        assert "# max_connections = 512" in answer["content"]


def test_a_named_settings_file_must_exist_at_start(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    command = [sys.executable, "-P", "-m", "whisperd", "--config", str(daemon.folder / "othr.toml")]
    done = subprocess.run(
        command, env=daemon.env, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 3
    assert "othr.toml cannot be read: No such file" in done.stderr


def test_a_named_settings_file_must_exist_on_reload(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    other = daemon.folder / "other.toml"
    other.write_text("[limits]\nmax_jobs = 3\n")
    daemon.start("--config", str(other))
    other.unlink()
    with RawClient(daemon) as client:
        with pytest.raises(WhisperdError, match="cannot be read: No such file"):
            client.request("daemon.reload")
        assert client.request("doctor.check")["checks"][0]["status"] == "broken"
        assert "\nmax_jobs = 3" in client.request("daemon.config")["content"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[limits]\nmax_connections = 0\n", "max_connections"),
        ("[limits]\nmax_connections = 'many'\n", "max_connections"),
        ("[limit]\n", "limit"),
        ("[limits]\nmax_conections = 3\n", "max_conections"),
        ("[limits\n", "line 1"),
        ("\x00", "line 1"),
    ],
)
def test_invalid_settings_change_nothing(daemon: RunningDaemon, content: str, named: str) -> None:
    daemon.settings(content)
    with RawClient(daemon) as client:
        before = client.request("daemon.config")["content"]
        with pytest.raises(WhisperdError, match=named) as caught:
            client.request("daemon.reload")
        assert caught.value.code == "config.invalid"
        assert str(daemon.config) in caught.value.message
        assert client.request("daemon.config")["content"] == before
    done = daemon.ctl("daemon", "reload", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "config.invalid")
    daemon.signal(signal.SIGHUP)
    until(lambda: "the settings are unchanged" in daemon.log())
    assert daemon.process is not None and daemon.process.poll() is None
