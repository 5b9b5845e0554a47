"""How the daemon reacts to memory pressure, battery power, and suspension of the computer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whisperd.daemon.conditions import check_interval_s
from whisperd_testing import TESTS, RunningDaemon, runtime_with, until, write_tone

SHORT = (
    "some avg10=22.16 avg60=5.04 avg300=1.17 total=8261712\nfull avg10=6.20 avg60=1.46 avg300=0.33 total=1\n"
)
SEVERE = SHORT.replace("full avg10=6.20", "full avg10=66.20")
QUIET = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"


class Computer:
    """The state of the computer, as the daemon sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pressure(QUIET)
        self.slept(0.0)

    def pressure(self, text: str) -> None:
        self._put("pressure", text)

    def slept(self, seconds: float) -> None:
        self._put("slept", str(seconds))

    def battery(self, *, on: bool) -> None:
        (self.folder / "battery").touch() if on else (self.folder / "battery").unlink()

    def _put(self, name: str, text: str) -> None:
        (self.folder / "new").write_text(text)
        (self.folder / "new").replace(self.folder / name)


@pytest.fixture
def computer(tmp_path: Path) -> Computer:
    (tmp_path / "conditions").mkdir()
    return Computer(tmp_path / "conditions")


@pytest.fixture
def daemon(make_daemon: Callable[..., RunningDaemon], computer: Computer) -> RunningDaemon:
    paths = os.pathsep.join([str(TESTS / "backends"), str(TESTS / "daemon")])
    env = {"CONDITIONS": str(computer.folder), "PYTHONPATH": paths}
    return make_daemon(program=("conditioned_daemon",), env=env).start()


def status(daemon: RunningDaemon, model: str) -> str:
    with daemon.connect() as client:
        return str(runtime_with(client, model)["status"])


def test_memory_pressure_unloads_only_idle_runtimes(
    daemon: RunningDaemon, computer: Computer, toy: Callable[..., str], held: Path, tmp_path: Path
) -> None:
    default, idle = toy("default"), toy("idle")
    daemon.make_default(default)
    tone = str(write_tone(tmp_path / "tone.wav", 1.0))
    with daemon.connect() as client:
        until(lambda: status(daemon, default) == "loaded", "the default to load")
        for name, model in (("idle", idle), ("busy", str(held))):
            client.runtimes.create(name, model)
            client.runtimes.load(name)
        job = client.request(
            "jobs.submit", input={"path": tone}, options={"runtime": "busy", "vad": False}, detach=True
        )["id"]
        until(lambda: client.jobs.show(job)["status"] == "running", "the job")

        computer.pressure(SHORT)
        until(lambda: status(daemon, idle) == "unloaded", "the idle runtime to be unloaded")
        assert (status(daemon, default), status(daemon, str(held))) == ("loaded", "loaded")

        computer.pressure(SEVERE)
        until(lambda: status(daemon, default) == "unloaded", "the default to be unloaded")
        assert status(daemon, str(held)) == "loaded"  # in use

        computer.pressure(QUIET)
        (held / "hold").unlink()
        assert client.jobs.wait(job)["text"]
    done = daemon.ctl("transcribe", "--no-vad", tone)  # the default is loaded again on demand
    assert (done.status, done.err) == (0, "")
    metrics = daemon.ctl("daemon", "metrics").out
    assert "whisperd_memory_relief_total 2\n" in metrics
    assert "memory is short: unloading idle" in daemon.log()


def test_a_setting_disables_unloading_under_memory_pressure(
    daemon: RunningDaemon, computer: Computer, toy: Callable[..., str]
) -> None:
    daemon.settings("[runtime]\nunload_when_memory_is_short = false\n")
    model = toy()
    with daemon.connect() as client:
        client.daemon.reload()
        client.runtimes.create("idle", model)
        client.runtimes.load("idle")
        computer.pressure(SEVERE)
        computer.slept(100.0)  # noticed after the pressure
        until(lambda: "was suspended" in daemon.log(), "another check")
        assert status(daemon, model) == "loaded"


def submit(client: Any, tone: str, model: str, priority: str) -> str:
    options = {"model": model, "vad": False, "priority": priority, "cache": False}
    return str(client.request("jobs.submit", input={"path": tone}, options=options)["id"])


def test_bulk_work_waits_for_mains_power(
    daemon: RunningDaemon, computer: Computer, toy: Callable[..., str], tmp_path: Path
) -> None:
    model, tone = toy(), str(write_tone(tmp_path / "tone.wav", 1.0))
    computer.battery(on=True)
    until(lambda: daemon.ctl("daemon", "status", "--json").json["bulk_held"], "the battery")
    assert "bulk work waits for mains power" in daemon.ctl("daemon", "status").out
    with daemon.connect() as client:
        bulk = submit(client, tone, model, "bulk")
        assert client.jobs.wait(submit(client, tone, model, "normal"))["text"]
        waiting = client.jobs.show(bulk)
        assert (waiting["status"], waiting["detail"]) == ("queued", "mains power")
        computer.battery(on=False)
        assert client.jobs.wait(bulk)["text"]


def test_a_running_bulk_job_pauses_and_resumes(
    daemon: RunningDaemon, computer: Computer, held: Path, ten_minutes: Path
) -> None:
    with daemon.connect() as client:
        bulk = submit(client, str(ten_minutes), str(held), "bulk")
        until(lambda: client.jobs.show(bulk)["status"] == "running", "the job")
        computer.battery(on=True)
        until(lambda: client.daemon.status()["bulk_held"], "the battery")
        (held / "hold").unlink()
        # The current batch finishes; then the bulk job pauses, while other jobs continue.
        assert client.jobs.wait(submit(client, str(ten_minutes), str(held), "normal"))["text"]
        assert client.jobs.show(bulk)["status"] == "running"
        computer.battery(on=False)
        assert client.jobs.wait(bulk)["text"]


def test_a_setting_allows_bulk_work_on_battery(
    daemon: RunningDaemon, computer: Computer, toy: Callable[..., str], tmp_path: Path
) -> None:
    computer.battery(on=True)
    with daemon.connect() as client:
        until(lambda: client.daemon.status()["bulk_held"], "the battery")
        bulk = submit(client, str(write_tone(tmp_path / "tone.wav", 1.0)), toy(), "bulk")
        daemon.settings("[jobs]\nbulk_on_battery = true\n")
        client.daemon.reload()
        assert client.jobs.wait(bulk)["text"]
        answer = client.daemon.status()
        assert (answer["on_battery"], answer["bulk_held"]) == (True, False)


def test_suspension_is_noticed_and_work_continues(
    daemon: RunningDaemon, computer: Computer, held: Path, tmp_path: Path
) -> None:
    with daemon.connect() as client:
        job = submit(client, str(write_tone(tmp_path / "tone.wav", 1.0)), str(held), "normal")
        until(lambda: client.jobs.show(job)["status"] == "running", "the job")
        computer.slept(28_800.0)
        until(lambda: "was suspended for 28800 s" in daemon.log(), "the suspension to be logged")
        (held / "hold").unlink()
        assert client.jobs.wait(job)["text"]
    until(lambda: "whisperd_suspended_seconds_total 28800\n" in daemon.ctl("daemon", "metrics").out)


def test_a_computer_without_a_battery_is_checked_rarely() -> None:
    assert check_interval_s(True, 5.0) == check_interval_s(False, 5.0) == 5.0
    assert check_interval_s(None, 5.0) == 30.0
