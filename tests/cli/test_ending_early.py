"""Ctrl-C, signals, closed pipes and time limits: the job ends in the daemon, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whisperd_testing import LIMIT_S, RunningDaemon, batches, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX"),
]

Start = Callable[..., "subprocess.Popen[bytes]"]

INTERRUPTED = """
import os, signal, sys
from importlib.metadata import EntryPoint

class Interrupter:
    def find_spec(name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter)
EntryPoint("program", sys.argv[2], "console_scripts").load()()
"""
"""A program that receives Ctrl-C when it begins to import a given module."""


def jobs_on(daemon: RunningDaemon, model: Path) -> list[dict[str, Any]]:
    with daemon.connect() as client:
        return [job for job in client.jobs.list() if job["options"]["model"] == str(model)]


def statuses(daemon: RunningDaemon, model: Path) -> list[str]:
    return [job["status"] for job in jobs_on(daemon, model)]


def begun(start: Start, model: Path, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    """Start a transcription and wait until the engine holds its first batch."""
    process = start("transcribe", "--no-vad", "--model", str(model), *arguments, **options)
    until(lambda: batches(model))
    return process


def started(daemon: RunningDaemon, *arguments: str) -> subprocess.Popen[bytes]:
    """Start whisperctl with `--json` and without waiting."""
    command = [sys.executable, "-m", "whisperd.cli.main", *arguments, "--json"]
    return subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def loading_second(daemon: RunningDaemon, held: Path) -> subprocess.Popen[bytes]:
    """Start loading two runtimes: the first does not exist, and the second loads until it is released."""
    (held / "hold_load").touch()
    assert daemon.ctl("runtimes", "create", "second", "--model", str(held)).status == 0
    process = started(daemon, "runtimes", "load", "nobody", "second")
    with daemon.connect() as client:
        until(lambda: client.runtimes.show("second")["status"] == "loading")
    return process


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("whisperctl", "whisperd.cli.main"),
        ("whisperctl", "whisperd.cli.parser"),
        ("whisperd", "whisperd.daemon.main"),
        ("whisperd", "whisperd.daemon.service"),
    ],
)
def test_ctrl_c_during_import_exits_quietly(program: str, module: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    command = [sys.executable, "-c", INTERRUPTED, module, project["scripts"][program]]
    done = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_ctrl_c_cancels_the_job(shared: RunningDaemon, ctl_process: Start, held: Path, tone: str) -> None:
    process = begun(ctl_process, held, tone)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (130, b"", b"")
    (job,) = jobs_on(shared, held)
    assert (job["status"], job["error"]["code"]) == ("cancelled", "job.cancelled")


def test_ctrl_c_cancels_every_file(shared: RunningDaemon, ctl_process: Start, held: Path, tone: str) -> None:
    process = begun(ctl_process, held, tone, tone, tone)
    until(lambda: len(jobs_on(shared, held)) == 3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    until(lambda: statuses(shared, held) == ["cancelled"] * 3)


def test_ctrl_c_prints_finished_results(
    shared: RunningDaemon, ctl_process: Start, held: Path, tone: str, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.wav")
    process = begun(ctl_process, held, "--json", missing, tone)
    until(lambda: jobs_on(shared, held))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (130, b"")
    assert [document["input"] for document in json.loads(out)] == [missing]


def test_ctrl_c_prints_finished_answers(shared: RunningDaemon, held: Path) -> None:
    process = loading_second(shared, held)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (130, b"")
    assert [answer["name"] for answer in json.loads(out)] == ["nobody"]
    assert shared.ctl("runtimes", "delete", "second").status == 0


def test_ctrl_c_leaves_no_output_file(
    shared: RunningDaemon, ctl_process: Start, held: Path, tone: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    process = begun(ctl_process, held, tone, "--output-dir", str(folder))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert list(folder.iterdir()) == []


def test_ctrl_c_during_an_upload_from_standard_input(
    shared: RunningDaemon, ctl_process: Start, held: Path
) -> None:
    process = ctl_process("transcribe", "-", "--model", str(held), stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"RIFF" * 300_000)  # more than one chunk, so the upload has begun
    process.stdin.flush()
    uploads = shared.folder / "state" / "uploads"
    until(lambda: any(path.is_file() for path in uploads.rglob("*")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert jobs_on(shared, held) == []
    until(lambda: not any(path.is_file() for path in uploads.rglob("*")))


def test_sigterm_ends_the_client_and_its_job(
    shared: RunningDaemon, ctl_process: Start, held: Path, tone: str
) -> None:
    process = begun(ctl_process, held, tone)
    process.terminate()
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGTERM
    until(lambda: statuses(shared, held) == ["cancelled"])
    assert jobs_on(shared, held)[0]["error"]["code"] == "job.client_gone"


def test_ctrl_c_while_following_does_not_cancel_the_job(
    shared: RunningDaemon, ctl_process: Start, held: Path, tone: str
) -> None:
    with shared.connect() as client:
        job = client.submit(tone, detach=True, model=held, vad=False)
        for verb in ("follow", "wait"):
            until(lambda: client.daemon.status()["clients"] == 1, "earlier clients to disconnect")
            process = ctl_process("jobs", verb, job)
            until(lambda: client.daemon.status()["clients"] == 2)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LIMIT_S)
            assert process.returncode == 130
    assert statuses(shared, held)[0] in ("queued", "running")
    (held / "hold").unlink()
    assert shared.ctl("jobs", "follow", job).out == "transcribe 2.00 s\n"


def test_a_closed_pipe_ends_the_command_quietly(
    shared: RunningDaemon, ctl_process: Start, toy: Callable[..., str], ten_minutes: Path
) -> None:
    """As with `| head -1`, when the reader exits before the output ends."""
    model = Path(toy("slow", window_s=0.2))
    process = begun(ctl_process, model, str(ten_minutes))
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith(b"transcribe ")
    process.stdout.close()
    process.wait(timeout=LIMIT_S)
    assert process.returncode == 0
    assert process.stderr.read() == b""
    until(lambda: statuses(shared, model) == ["cancelled"])


@pytest.mark.parametrize("arguments", ["--help", "jobs list", "daemon status --json"])
def test_a_pipe_without_a_reader_ends_the_command_quietly(shared: RunningDaemon, arguments: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "whisperd.cli.main", *arguments.split()]
    done = subprocess.run(
        command, env=shared.env, stdout=write, stderr=subprocess.PIPE, check=False, timeout=LIMIT_S
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
@pytest.mark.parametrize("arguments", ["jobs list", "daemon status --json", "--help", "--version"])
def test_standard_output_on_a_full_disk_is_an_error(shared: RunningDaemon, arguments: str) -> None:
    command = [sys.executable, "-m", "whisperd.cli.main", *arguments.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command,
            env={**shared.env, "PYTHONUNBUFFERED": "1"},  # output is written at once
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=LIMIT_S,
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "whisperctl: Standard output cannot be written: No space left on device.",
        "  Check the space on its disk.",
    ]


@pytest.mark.parametrize("arguments", ["transcribe tone.wav", "watch add inbox", "jobs list --socket s"])
def test_a_deleted_working_folder_is_an_error(shared: RunningDaemon, tmp_path: Path, arguments: str) -> None:
    script = f'mkdir gone; cd gone; rmdir ../gone; "$0" -P -m whisperd.cli.main {arguments}'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable],
        cwd=tmp_path,
        env=shared.env,
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines()[-2:] == [
        "whisperctl: The current folder was deleted.",
        "  Change to another folder, such as with `cd ~`.",
    ]


def test_errors_keep_their_status_with_standard_error_closed(shared: RunningDaemon) -> None:
    command = f'"{sys.executable}" -m whisperd.cli.main jobs show none 2>&-'
    assert subprocess.run(["sh", "-c", command], env=shared.env, check=False, timeout=LIMIT_S).returncode == 4


def test_the_time_limit_cancels_the_job(shared: RunningDaemon, held: Path, tone: str) -> None:
    done = shared.ctl("transcribe", "--no-vad", "--model", str(held), "--timeout", "0.5", "--json", tone)
    assert (done.status, done.json["error"]["code"]) == (1, "job.timeout")
    assert statuses(shared, held) == ["cancelled"]


def test_the_time_limit_is_reported_in_the_event_stream(shared: RunningDaemon, held: Path, tone: str) -> None:
    options = ("--no-vad", "--model", str(held), "--timeout", "0.5", "--stream")
    done = shared.ctl("transcribe", *options, tone)
    (job,) = jobs_on(shared, held)
    last = json.loads(done.out.splitlines()[-1])
    assert (last["type"], last["id"], last["input"]) == ("transcription.cancelled", job["id"], tone)
    assert last["error"]["code"] == "job.timeout"


def test_the_time_limit_covers_all_files(shared: RunningDaemon, held: Path, tone: str) -> None:
    done = shared.ctl("transcribe", "--no-vad", "--model", str(held), "--timeout", "0.5", tone, tone)
    assert done.status == 1
    assert done.err.count("not done within 0.5 s") == 2
    assert statuses(shared, held) == ["cancelled"] * 2


def test_a_killed_daemon_means_status_3(
    make_daemon: Callable[..., RunningDaemon], held: Path, tone: str
) -> None:
    daemon = make_daemon().start()
    command = [
        sys.executable,
        "-m",
        "whisperd.cli.main",
        "transcribe",
        "--no-vad",
        "--model",
        str(held),
        tone,
    ]
    process = subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: batches(held))
    daemon.signal(signal.SIGKILL)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (3, b"")
    assert b"closed the connection" in err
    daemon.wait()


def test_a_killed_daemon_leaves_the_finished_results(
    make_daemon: Callable[..., RunningDaemon], held: Path, tone: str, tmp_path: Path
) -> None:
    daemon = make_daemon().start()
    missing = str(tmp_path / "missing.wav")
    loading = loading_second(daemon, held)
    transcribing = started(daemon, "transcribe", "--no-vad", "--runtime", "second", missing, tone, tone)
    with daemon.connect() as client:
        until(client.jobs.list)
    daemon.signal(signal.SIGKILL)
    for process, key, names in (
        (loading, "name", ["nobody", "second"]),
        (transcribing, "input", [missing, tone]),
    ):
        out, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, err) == (3, b"")
        answers = json.loads(out)
        assert [answer[key] for answer in answers] == names
        assert answers[-1]["error"]["code"] == "daemon.connection_lost"
    daemon.wait()
