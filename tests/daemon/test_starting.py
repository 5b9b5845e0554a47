"""However many clients start it, one daemon runs; a dead one is replaced, a live one never."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import psutil
import pytest
from filelock import FileLock
from raw_client import until

from whisperd.client import aconnect, connect, start
from whisperd.daemon import listener
from whisperd.rpc.errors import WhisperdError
from whisperd.service_manager import install
from whisperd_testing import CACHE, LIMIT_S, RunningDaemon, write_tone

pytestmark = pytest.mark.slow

MakeDaemon = Callable[..., RunningDaemon]
CTL = [sys.executable, "-P", "-m", "whisperd.cli.main"]
DAEMON = [sys.executable, "-P", "-m", "whisperd"]


@pytest.fixture
def unstarted(make_daemon: MakeDaemon) -> RunningDaemon:
    return make_daemon()


def daemons(of: RunningDaemon) -> list[int]:
    """Return the daemons on this socket, which a client that starts one puts on its command line."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status", "ppid"]):
        command = process.info["cmdline"] or []
        if of.socket in command and "whisperd" in command and process.info["status"] != "zombie":
            found[process.pid] = process.info["ppid"]
    # A child has the command line of its daemon until it executes its own program.
    return [pid for pid, parent in found.items() if parent not in found]


def failure(daemon: RunningDaemon) -> tuple[int, str]:
    done = subprocess.run(DAEMON, env=daemon.env, capture_output=True, timeout=LIMIT_S, check=False)
    return done.returncode, done.stderr.decode()


# One daemon


def test_twenty_clients_at_once_start_one_daemon(unstarted: RunningDaemon) -> None:
    clients = [
        subprocess.Popen(
            [*CTL, "daemon", "start", "--json"],
            env=unstarted.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(20)
    ]
    answers = [client.communicate(timeout=LIMIT_S) for client in clients]
    assert [client.returncode for client in clients] == [0] * 20, answers
    assert [error for _, error in answers] == [""] * 20
    [running] = daemons(unstarted)
    assert {f'"pid": {running}' in answer for answer, _ in answers} == {True}


def test_of_ten_concurrent_daemons_one_runs(unstarted: RunningDaemon) -> None:
    started = [
        subprocess.Popen([*DAEMON, "--announce"], env=unstarted.env, stdout=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    said = []
    for one in started:
        assert one.stdout is not None
        with one.stdout:
            said.append(one.stdout.readline())
    assert sum("daemon.already_running" in line for line in said) == 9
    [winner] = [one for one, line in zip(started, said, strict=True) if '"socket"' in line]
    assert sorted(one.wait(LIMIT_S) for one in started if one is not winner) == [3] * 9
    with unstarted.connect() as client:
        assert client.daemon.status()["pid"] == winner.pid
    winner.terminate()
    assert winner.wait(LIMIT_S) == 0


def test_a_live_daemon_is_never_replaced(daemon: RunningDaemon) -> None:
    inode = Path(daemon.socket).stat().st_ino
    status, said = failure(daemon)
    assert status == 3
    assert "is already running" in said and "daemon stop" in said
    assert Path(daemon.socket).stat().st_ino == inode
    with daemon.connect() as client:
        assert client.daemon.status()["pid"] == daemon.pid


def test_a_daemon_that_does_not_answer_is_not_replaced(daemon: RunningDaemon) -> None:
    daemon.signal(signal.SIGSTOP)
    try:
        status, said = failure(daemon)
    finally:
        daemon.signal(signal.SIGCONT)
    assert status == 3
    assert "is already running" in said
    with daemon.connect() as client:
        assert client.daemon.status()["pid"] == daemon.pid


# Recovery


def test_a_daemon_that_was_killed_is_replaced(daemon: RunningDaemon) -> None:
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    assert Path(daemon.socket).exists() and Path(f"{daemon.socket}.lock").exists()
    done = daemon.ctl("daemon", "status")
    assert done.status == 3
    assert "daemon start" in done.err
    started = daemon.ctl("daemon", "start", "--json")
    assert started.status == 0, started
    assert daemons(daemon) == [started.json["pid"]]


def test_a_stale_socket_of_another_program_is_replaced(unstarted: RunningDaemon) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(unstarted.socket)
    unstarted.start()
    with unstarted.connect() as client:
        assert client.daemon.status()


def test_a_socket_on_which_another_program_listens_is_kept(unstarted: RunningDaemon) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(unstarted.socket)
        other.listen()
        status, said = failure(unstarted)
        assert status == 3
        assert "is already running" in said
    Path(unstarted.socket).unlink()


def test_a_stopping_daemon_is_waited_for(unstarted: RunningDaemon) -> None:
    """Its socket is deleted, but its lock is held until its last worker has exited."""
    with FileLock(f"{unstarted.socket}.lock"):
        client = subprocess.Popen(
            [*CTL, "daemon", "start", "--json"], env=unstarted.env, stdout=subprocess.PIPE
        )
        until(lambda: len(daemons(unstarted)) == 1)
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(0.5)
    out, _ = client.communicate(timeout=LIMIT_S)
    assert client.returncode == 0
    assert f'"pid": {daemons(unstarted)[0]}' in out.decode()


def test_a_daemon_whose_socket_was_deleted_is_reported(
    unstarted: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def claim() -> None:
        async with listener.claim_socket(unstarted.socket):
            pass

    monkeypatch.setattr("whisperd.locks.ENDING_TIMEOUT_S", 0.2)
    with FileLock(f"{unstarted.socket}.lock"), pytest.raises(WhisperdError) as caught:
        anyio.run(claim)
    assert caught.value.code == "daemon.hidden"


def test_a_daemon_whose_socket_was_deleted_makes_room_for_the_next(daemon: RunningDaemon) -> None:
    """When a user logs out, the system deletes the folder of the socket."""
    shutil.rmtree(Path(daemon.socket).parent)
    Path(daemon.socket).parent.mkdir(mode=0o700)
    assert daemon.ctl("daemon", "start").status == 0
    assert daemon.wait() == 0
    assert daemon.ctl("daemon", "stop").out == "whisperd has stopped\n"


def test_a_daemon_does_not_delete_the_socket_of_another(daemon: RunningDaemon) -> None:
    Path(daemon.socket).unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(daemon.socket)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert Path(daemon.socket).exists()
    Path(daemon.socket).unlink()


def test_stopping_and_starting_without_waiting(unstarted: RunningDaemon) -> None:
    """A client that connects while a daemon stops is answered by it or by the next one."""
    for _ in range(5):
        unstarted.start()
        unstarted.signal(signal.SIGTERM)
        done = unstarted.ctl("daemon", "start", "--json")
        assert unstarted.wait() == 0
        if done.status == 0:
            assert len(daemons(unstarted)) == (done.json["pid"] != unstarted.pid)
        else:
            assert done.json["error"]["code"] == "daemon.connection_lost"
        unstarted.ctl("daemon", "stop")
        until(lambda: not daemons(unstarted))


# Failures to start


@pytest.fixture(params=["config", "state", "key"])
def broken(request: pytest.FixtureRequest, unstarted: RunningDaemon) -> tuple[RunningDaemon, str, str]:
    """A daemon that cannot start, its error code, and a word of the fix."""
    match request.param:
        case "config":
            unstarted.settings("[daemon\n")
            return unstarted, "config.invalid", "line"
        case "key":
            unstarted.settings("[limits]\nmax_conections = 3\n")
            return unstarted, "config.invalid", "max_connections"
        case _:
            (unstarted.folder / "state").write_text("in the way")
            return unstarted, "log.not_writable", "WHISPERD_STATE_DIR"


def test_a_failed_start_is_explained(broken: tuple[RunningDaemon, str, str]) -> None:
    daemon, _, fix = broken
    status, said = failure(daemon)
    assert status == 3
    assert said.startswith("whisperd: ")
    assert fix in said
    assert "Traceback" not in said


def test_the_starting_client_gets_the_error(broken: tuple[RunningDaemon, str, str]) -> None:
    daemon, code, fix = broken
    done = daemon.ctl("daemon", "start", "--json")
    assert done.status == 3
    assert done.json["error"]["code"] == code
    assert fix in done.json["error"]["fix"]
    assert daemons(daemon) == []
    assert not Path(daemon.socket).exists()


def test_output_of_a_plugin_is_not_taken_for_the_announcement(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    (tmp_path / "chatty.py").write_text("print('Hello from a plugin.' * 10_000)\n")  # more than a pipe holds
    described = tmp_path / "chatty-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: chatty\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[whisperd]\nchatty = chatty\n")
    done = make_daemon(env={"PYTHONPATH": str(tmp_path)}).ctl("daemon", "start", "--json")
    assert (done.status, done.err) == (0, "")
    problems = done.json["plugin_problems"]
    assert [problem["data"]["plugin"] for problem in problems] == ["chatty"], "the plugin was imported"


@pytest.mark.skipif(sys.platform == "win32", reason="replaces Python with a shell script")
def test_a_daemon_that_hangs_at_start_is_abandoned(
    unstarted: RunningDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = tmp_path / "python"
    hanging.write_text(f"#!/bin/sh\nexec sleep {LIMIT_S}\n")
    hanging.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(hanging))
    monkeypatch.setattr(start, "SILENCE_TIMEOUT_S", 0.01)
    with pytest.raises(WhisperdError) as caught:
        start.start_daemon(unstarted.socket)
    assert caught.value.code == "daemon.start_failed" and "did not respond" in caught.value.message


def test_a_failure_to_spawn_does_not_blame_the_socket(
    unstarted: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(WhisperdError, match="No such file") as caught:
        start.start_daemon(unstarted.socket)
    assert caught.value.code == "daemon.start_failed"


def test_the_starting_client_is_given_enough_time(
    unstarted: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest_s = install.COMMAND_TIMEOUT_S + start.SILENCE_TIMEOUT_S + start.CONNECT_TIMEOUT_S
    assert longest_s <= start.OTHERS_START_TIMEOUT_S
    monkeypatch.setattr(start, "OTHERS_START_TIMEOUT_S", 0.01)
    with FileLock(f"{unstarted.socket}.start"), pytest.raises(WhisperdError) as caught:
        start.start_daemon(unstarted.socket)
    assert caught.value.code == "daemon.start_failed" and "another client" in caught.value.message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads process limits from Linux")
def test_a_daemon_raises_its_file_limit_to_the_maximum(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    daemon.settings("[limits]\nmax_connections = 10_000\n")
    with_limits = 'ulimit -Sn 256 && ulimit -Hn 1000 && exec "$@"'
    daemon.process = subprocess.Popen(
        ["sh", "-c", with_limits, "sh", *DAEMON, "--announce"], env=daemon.env, stdout=subprocess.PIPE
    )
    assert daemon.process.stdout is not None
    with daemon.process.stdout as announcement:
        assert b'"socket"' in announcement.readline()
    assert psutil.Process(daemon.pid).rlimit(psutil.RLIMIT_NOFILE) == (1000, 1000)


# Paths with unusual names


@pytest.fixture
def odd(make_daemon: MakeDaemon) -> Iterator[RunningDaemon]:
    """A daemon whose paths all contain spaces and non-ASCII letters."""
    with tempfile.TemporaryDirectory(prefix="wd-") as short:
        daemon = make_daemon()
        for variable, name in {
            "WHISPERD_SOCKET": "für mich/дом.sock",
            "WHISPERD_CONFIG": "mes réglages/config été.toml",
            "WHISPERD_STATE_DIR": "状態 と ログ",
            "WHISPERD_NATIVE_DIR": "nätive bündles",
            "WHISPERD_MODELS_DIR": "módelos míos",
        }.items():
            daemon.env[variable] = str(Path(short, name))
        daemon.socket = daemon.env["WHISPERD_SOCKET"]
        yield daemon
        if Path(daemon.socket).exists():
            daemon.ctl("daemon", "stop")


def test_paths_with_spaces_and_non_ascii_letters(odd: RunningDaemon) -> None:
    config = Path(odd.env["WHISPERD_CONFIG"])
    config.parent.mkdir()
    config.write_text("[limits]\nmax_jobs = 7\n")
    started = odd.ctl("daemon", "start", "--json")
    assert started.status == 0, started
    assert started.json["socket"] == odd.socket
    assert "max_jobs = 7" in odd.ctl("daemon", "config").out
    assert "listens on" in odd.ctl("daemon", "logs").out
    assert Path(odd.env["WHISPERD_STATE_DIR"], "daemon.log").exists()
    assert odd.ctl("models", "list", "--json").json == []


@pytest.mark.real
def test_a_job_with_spaces_and_non_ascii_letters_in_all_paths(
    odd: RunningDaemon, toy: Callable[..., str], tmp_path: Path
) -> None:
    Path(odd.env["WHISPERD_NATIVE_DIR"]).symlink_to(CACHE / "native")
    sound = write_tone(tmp_path / "mein schönes Gespräch № 1.wav", 2.0)
    done = odd.ctl("transcribe", "--no-vad", "--model", toy("a mödel"), str(sound))
    assert (done.status, done.out.strip()) == (0, "transcribe 2.00 s"), done


def test_relative_paths_are_relative_to_the_client(unstarted: RunningDaemon, tmp_path: Path) -> None:
    """The daemon runs in another folder than the client that starts it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.toml").write_text("[limits]\nmax_jobs = 7\n")
    env = {**unstarted.env, "WHISPERD_CONFIG": "config.toml", "WHISPERD_STATE_DIR": "state"}
    subprocess.run([*CTL, "daemon", "start", "--quiet"], env=env, cwd=tmp_path / "here", check=True)
    with unstarted.connect() as client:
        assert "max_jobs = 7" in client.daemon.config()["content"]
    assert (tmp_path / "here" / "state" / "daemon.log").exists()


def test_a_socket_name_is_relative_to_the_client(unstarted: RunningDaemon) -> None:
    """As given on the command line; the client and its daemon must agree on the path."""
    folder = Path(unstarted.socket).parent
    env = {name: value for name, value in unstarted.env.items() if name != "WHISPERD_SOCKET"}
    start = [*CTL, "--socket", Path(unstarted.socket).name, "daemon", "start", "--json"]
    done = subprocess.run(start, env=env, cwd=folder, check=True, stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["socket"] == unstarted.socket
    unstarted.connect().close()


# A daemon that is just stopping


@pytest.fixture
def dying(unstarted: RunningDaemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningDaemon]:
    """A daemon whose socket still accepts a connection although no process serves it."""
    for name, value in unstarted.env.items():
        monkeypatch.setenv(name, value)
    Path(unstarted.socket).parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(unstarted.socket)
        listening.listen()

        def end() -> None:
            connection, _ = listening.accept()
            listening.close()
            connection.close()

        thread = threading.Thread(target=end)
        thread.start()
        yield unstarted
        thread.join(LIMIT_S)


def test_a_stopping_daemon_is_replaced(dying: RunningDaemon) -> None:
    with connect(dying.socket) as client:
        assert client.daemon.status()["socket"] == dying.socket


@pytest.mark.anyio
async def test_the_asynchronous_client_replaces_a_stopping_daemon(dying: RunningDaemon) -> None:
    async with aconnect(dying.socket) as client:
        assert (await client.daemon.status())["socket"] == dying.socket


def test_a_stopping_daemon_is_not_replaced_without_permission(dying: RunningDaemon) -> None:
    with pytest.raises(WhisperdError) as caught:
        connect(dying.socket, start=False)
    assert caught.value.code == "daemon.connection_lost"


def test_threads_that_compute_give_way_to_the_event_loop_soon(tmp_path: Path) -> None:
    """A clip took twice as long while subtitles were rendered."""
    code = """if True:
        import sys
        from whisperd.daemon.main import main
        try:
            main(["--config", sys.argv[1]])
        except SystemExit:
            print(sys.getswitchinterval())
    """
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "missing.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert float(done.stdout) < 0.005
