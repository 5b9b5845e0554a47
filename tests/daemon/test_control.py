"""`whisperctl daemon …`, as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from raw_client import until

from whisperd_testing import LIMIT_S, Finished, RunningDaemon, batches, write_tone

pytestmark = pytest.mark.slow

MakeDaemon = Callable[..., RunningDaemon]


@pytest.fixture
def unstarted(make_daemon: MakeDaemon) -> RunningDaemon:
    return make_daemon()


def started(daemon: RunningDaemon) -> int:
    """Have a client start the daemon; return its process ID."""
    done = daemon.ctl("daemon", "start", "--json")
    assert done.status == 0, done
    return int(done.json["pid"])


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_unreachable(done: Finished) -> bool:
    return done.status == 3 and "whisperctl daemon start" in done.err


def test_control_commands_do_not_start_a_daemon(unstarted: RunningDaemon) -> None:
    for verb in ("status", "reload"):
        assert is_unreachable(unstarted.ctl("daemon", verb)), verb
    assert unstarted.ctl("daemon", "stop").status == 0, "there is nothing left to do"
    assert is_unreachable(unstarted.ctl("jobs", "list", "--no-start"))
    assert not Path(unstarted.socket).exists()


def test_status_as_text(daemon: RunningDaemon) -> None:
    done = daemon.ctl("daemon", "status")
    assert done.status == 0
    assert f"process {daemon.pid}" in done.out
    assert daemon.socket in done.out
    assert "0 running" in done.out
    assert done.err == ""


def test_status_as_json(daemon: RunningDaemon) -> None:
    answer = daemon.ctl("daemon", "status", "--json").json
    assert answer.keys() >= {
        "version", "protocol", "pid", "socket", "uptime", "default_runtime", "runtimes", "jobs", "memory",
        "audio_seconds", "speed", "config", "log", "clients", "stopping",
    }  # fmt: skip
    assert answer["jobs"] == dict.fromkeys(("queued", "running", "completed", "failed", "cancelled"), 0)
    assert answer["memory"]["daemon"] > 10_000_000
    assert answer["uptime"] > 0
    assert answer["config"] == str(daemon.config)
    assert "listens on" in Path(answer["log"]).read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process")
def test_status_and_metrics_when_there_are_too_many_open_files(
    daemon: RunningDaemon, toy: Callable[..., str]
) -> None:
    import resource

    daemon.make_default(toy())
    until(lambda: len(daemon.workers()) == 1)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with daemon.connect() as client:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1, most))
        assert client.daemon.status()["pid"] == daemon.pid
        assert "whisperd_jobs_total" in client.daemon.metrics()["content"]


def test_starting_twice_runs_one_daemon(unstarted: RunningDaemon) -> None:
    assert started(unstarted) == started(unstarted)


def test_a_daemon_started_by_a_client_is_detached_from_it(unstarted: RunningDaemon) -> None:
    process = psutil.Process(started(unstarted))
    assert process.cwd() == "/"
    assert process.parent() is None or process.parent().pid != process.pid
    assert process.terminal() is None
    assert {Path(f"/proc/{process.pid}/fd/{number}").resolve() for number in range(3)} <= {Path("/dev/null")}


def test_stop_waits_for_the_end(unstarted: RunningDaemon) -> None:
    pid = started(unstarted)
    assert unstarted.ctl("daemon", "stop").status == 0
    assert has_ended(pid)
    assert not Path(unstarted.socket).exists()
    assert is_unreachable(unstarted.ctl("daemon", "status"))


def test_restart(unstarted: RunningDaemon) -> None:
    first = started(unstarted)
    unstarted.settings("[limits]\nmax_jobs = 7\n")
    done = unstarted.ctl("daemon", "restart", "--json")
    assert done.status == 0, done
    assert done.json["pid"] != first
    assert has_ended(first)
    with unstarted.connect() as client:
        assert "\nmax_jobs = 7" in client.daemon.config()["content"]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_restart_keeps_the_settings_path_even_if_the_file_is_missing(
    unstarted: RunningDaemon, force: list[str]
) -> None:
    given = unstarted.env["WHISPERD_CONFIG"]
    started(unstarted)
    del unstarted.env["WHISPERD_CONFIG"]
    for _ in range(2):
        done = unstarted.ctl("daemon", "restart", *force)
        assert done.status == 0 and f"using default settings: {given} does not exist" in done.out, done
    assert unstarted.ctl("daemon", "status", "--json").json["config"] == given


def test_restart_uses_the_default_settings_path_of_its_shell(unstarted: RunningDaemon) -> None:
    del unstarted.env["WHISPERD_CONFIG"]
    started(unstarted)
    unstarted.env["XDG_CONFIG_HOME"] = str(unstarted.folder / "other")
    done = unstarted.ctl("daemon", "restart")
    assert done.status == 0 and "settings" not in done.out, done


@pytest.mark.parametrize("is_named_here", [False, True])
def test_restart_keeps_the_settings_file_unless_another_is_named(
    unstarted: RunningDaemon, is_named_here: bool
) -> None:
    named = Path(unstarted.env.pop("WHISPERD_CONFIG"))
    other = unstarted.folder / "other.toml"
    other.touch()
    pid = unstarted.start("--config", str(other)).pid
    if is_named_here:
        unstarted.env["WHISPERD_CONFIG"] = str(named)
    (named if is_named_here else other).write_text("[limits]\nmax_jobs = 'seven'\n")
    done = unstarted.ctl("daemon", "restart", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "config.invalid")
    assert not has_ended(pid), "it must not be stopped for a daemon that cannot start"
    (named if is_named_here else other).write_text("[limits]\nmax_jobs = 7\n")
    done = unstarted.ctl("daemon", "restart")
    assert done.status == 0 and (f"keeping the settings of {other}" in done.out) != is_named_here, done
    with unstarted.connect() as client:
        assert "\nmax_jobs = 7" in client.daemon.config()["content"]


def test_restart_starts_a_daemon_if_none_runs(unstarted: RunningDaemon) -> None:
    assert unstarted.ctl("daemon", "restart").status == 0
    assert unstarted.ctl("daemon", "status").status == 0


@pytest.mark.real
def test_stop_lets_running_work_finish(
    daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    model = Path(toy())
    (model / "hold").touch()
    sound = write_tone(tmp_path / "tone.wav", 3.0)
    ctl = [sys.executable, "-P", "-m", "whisperd.cli.main"]
    job = subprocess.Popen(
        [*ctl, "transcribe", "--no-vad", "--language", "en", "--model", str(model), str(sound)],
        env=daemon.env,
        stdout=subprocess.PIPE,
    )
    until(lambda: bool(batches(model)))
    with subprocess.Popen([*ctl, "daemon", "stop", "--quiet"], env=daemon.env) as stop:
        until(lambda: "stopping: 1 job" in daemon.log())
        assert stop.poll() is None
        (model / "hold").unlink()
        out, _ = job.communicate(timeout=LIMIT_S)
        assert (job.returncode, out.decode().strip()) == (0, "transcribe 3.00 s")
        assert stop.wait(LIMIT_S) == 0


@pytest.mark.real
def test_stop_reports_which_jobs_continue(
    daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    model = Path(toy())
    (model / "hold").touch()
    sound = write_tone(tmp_path / "tone.wav", 3.0)
    transcribe = ["transcribe", "--no-vad", "--language", "en", "--model", str(model), str(sound)]
    daemon.ctl(*transcribe, "--detach")
    done = daemon.ctl("daemon", "stop")
    assert (done.status, done.err) == (0, "1 detached job will continue in the next daemon\n"), done


@pytest.mark.real
def test_start_during_a_shutdown_leaves_one_daemon_running(
    daemon: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    model = Path(toy())
    (model / "hold").touch()
    sound = write_tone(tmp_path / "tone.wav", 3.0)
    ended = daemon.pid
    daemon.ctl("transcribe", "--detach", "--no-vad", "--model", str(model), str(sound))
    until(lambda: bool(batches(model)))
    daemon.signal(signal.SIGTERM)
    until(lambda: "stopping: 1 job" in daemon.log())
    command = [sys.executable, "-P", "-m", "whisperd.cli.main", "daemon", "start", "--json"]
    with subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE) as starting:
        (model / "hold").unlink()
        out, _ = starting.communicate(timeout=LIMIT_S)
        assert starting.returncode == 0
    assert json.loads(out)["pid"] != ended
    assert daemon.ctl("daemon", "status", "--json").json["pid"] == json.loads(out)["pid"]


def test_the_log(unstarted: RunningDaemon) -> None:
    done = unstarted.ctl("daemon", "logs")
    assert done.status == 4
    assert "whisperctl daemon start" in done.err
    started(unstarted)
    assert "listens on" in unstarted.ctl("daemon", "logs").out
    for _ in range(5):
        unstarted.ctl("daemon", "reload")
    lines = unstarted.ctl("daemon", "logs", "--lines", "3").out.splitlines()
    assert len(lines) == 3
    assert all("settings read again" in line for line in lines)
    assert unstarted.ctl("daemon", "logs", "-n", "2", "--json").json["lines"] == lines[1:]


def test_the_log_of_another_daemon(daemon: RunningDaemon, unstarted: RunningDaemon) -> None:
    del unstarted.env["WHISPERD_SOCKET"]
    (unstarted.folder / "state").mkdir(mode=0o700)
    (unstarted.folder / "state" / "daemon.log").touch()
    shown = unstarted.ctl("daemon", "logs", "--socket", daemon.socket, "--json").json
    assert shown["path"] == str(daemon.folder / "state" / "daemon.log")
    daemon.ctl("daemon", "stop")
    done = unstarted.ctl("daemon", "logs", "--socket", daemon.socket, "--json")
    assert done.json["path"] == str(unstarted.folder / "state" / "daemon.log")
    assert f"No daemon responds on {daemon.socket}; printing {done.json['path']}." in done.err


def test_following_the_log(daemon: RunningDaemon) -> None:
    following = subprocess.Popen(
        [sys.executable, "-u", "-P", "-m", "whisperd.cli.main", "daemon", "logs", "--follow", "-n", "1"],
        env=daemon.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert following.stdout is not None
    with following.stdout:
        assert "listens on" in following.stdout.readline()
        daemon.ctl("daemon", "reload")
        assert "settings read again" in following.stdout.readline()
        following.terminate()
    following.wait(LIMIT_S)


@pytest.mark.skipif(os.name != "posix", reason="simulates a full disk with a POSIX limit")
def test_a_failed_settings_template_leaves_no_file_behind(unstarted: RunningDaemon) -> None:
    program = (
        "import resource; from whisperd.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); main()"
    )
    words = ["daemon", "config", "--init", "--json"]
    done = subprocess.run(
        [sys.executable, "-BPc", program, *words], env=unstarted.env, capture_output=True, check=False
    )
    assert json.loads(done.stdout)["error"]["code"] == "config.not_writable"
    assert unstarted.ctl(*words).json == {"path": str(unstarted.config)}


def test_the_settings_file_is_created_and_shown(unstarted: RunningDaemon) -> None:
    assert unstarted.ctl("daemon", "config", "--init").status == 0
    template = unstarted.config.read_text()
    assert "# max_connections = 512" in template
    assert stat.S_IMODE(unstarted.config.stat().st_mode) & 0o022 == 0
    again = unstarted.ctl("daemon", "config", "--init")
    assert again.status == 5  # a file that may have been edited is not overwritten
    unstarted.settings(template.replace("# max_jobs = 10000", "max_jobs = 12"))
    assert "\nmax_jobs = 12" in unstarted.ctl("daemon", "config").out
    assert started(unstarted)
    unstarted.settings("[limits]\nmax_jobs = 0\n")
    assert "\nmax_jobs = 12" in unstarted.ctl("daemon", "config").out  # the settings in effect
    assert unstarted.ctl("daemon", "stop").status == 0
    done = unstarted.ctl("daemon", "config", "--json")
    assert (done.status, done.json["error"]["code"]) == (1, "config.invalid")
