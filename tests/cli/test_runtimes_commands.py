"""The whole life cycle of runtimes and profiles through `whisperctl`, with a real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_terminal import Terminal

from whisperd_testing import RunningDaemon, loads, until

pytestmark = pytest.mark.real

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def fast(shared: RunningDaemon, toy: Callable[..., str]) -> Iterator[str]:
    """A runtime with its own model."""
    created = shared.ctl("runtimes", "create", "fast", "--model", toy("fast"))
    assert (created.status, created.out) == (0, "fast is created\n"), created
    yield "fast"
    shared.ctl("runtimes", "edit", "fast", "--no-protected")
    shared.ctl("runtimes", "delete", "fast")


def shown(daemon: RunningDaemon, name: str) -> dict[str, Any]:
    runtime = daemon.ctl("runtimes", "show", name, "--json").json
    assert isinstance(runtime, dict)
    return runtime


def default_of(daemon: RunningDaemon) -> str:
    (name,) = [one["name"] for one in daemon.ctl("runtimes", "list", "--json").json if one["default"]]
    return str(name)


def test_the_life_cycle_of_a_runtime(shared: RunningDaemon, fast: str, toy: Callable[..., str]) -> None:
    rows = {line.split()[0]: line for line in shared.ctl("runtimes", "list").out.splitlines()}
    assert "unloaded" in rows[fast]
    assert " * " in rows[default_of(shared)]
    assert max(map(len, rows.values())) <= 80
    loaded = shared.ctl("runtimes", "load", fast)
    assert (loaded.status, loaded.err) == (0, "")
    assert loaded.out.startswith("fast is loaded: cpu, ")
    assert shown(shared, fast)["status"] == "loaded"
    assert shared.ctl("runtimes", "unload", fast).out == "fast is unloaded\n"
    history = [moment["status"] for moment in shown(shared, fast)["history"]]
    assert history[-1] == "unloaded"
    assert "loaded" in history
    words = shared.ctl("runtimes", "show", fast).out
    assert "status:       unloaded\n" in words
    assert "loaded" in words.partition("TIME")[2]
    assert shared.ctl("runtimes", "delete", fast).out == "fast is deleted\n"
    gone = shared.ctl("runtimes", "show", fast)
    assert (gone.status, gone.out) == (4, "")


def test_a_runtime_can_be_named_by_its_id(shared: RunningDaemon, fast: str) -> None:
    assert shown(shared, shown(shared, fast)["id"])["name"] == fast


def test_editing_a_runtime(shared: RunningDaemon, fast: str) -> None:
    version = shown(shared, fast)["version"]
    changed = shared.ctl(
        "runtimes",
        "edit",
        fast,
        "--keep-alive",
        "1h30m",
        "--protected",
        "--if-version",
        str(version),
        "--json",
    ).json
    assert (changed["keep_alive"], changed["protected"], changed["version"]) == (5400, True, version + 1)
    stale = shared.ctl("runtimes", "edit", fast, "--workers", "1", "--if-version", str(version), "--json")
    assert (stale.status, stale.json["error"]["code"]) == (5, "runtime.stale")
    refused = shared.ctl("runtimes", "delete", fast, "--json")
    assert (refused.status, refused.json["error"]["code"]) == (5, "runtime.is_protected")
    assert shared.ctl("runtimes", "edit", fast, "--rename", "quick").out == "fast is now quick\n"
    assert shared.ctl("runtimes", "edit", "quick", "--name", fast).status == 0


@pytest.mark.parametrize("keep_alive", ["-1", "never"])
def test_keeping_a_runtime_loaded_for_ever(shared: RunningDaemon, fast: str, keep_alive: str) -> None:
    assert shared.ctl("runtimes", "edit", fast, "--keep-alive", keep_alive, "--json").json["keep_alive"] == -1


def test_an_invalid_field_is_refused(shared: RunningDaemon, fast: str) -> None:
    done = shared.ctl("runtimes", "edit", fast, "--keep-alive", "soon", "--json")
    assert (done.status, done.json["error"]["code"]) == (2, "runtime.invalid")
    assert done.json["error"]["data"] == {"field": "keep_alive"}


def test_the_default_runtime_is_changed_and_protected(shared: RunningDaemon, fast: str) -> None:
    first = default_of(shared)
    for verb in ("delete", "unload", "disable"):
        done = shared.ctl("runtimes", verb, first, "--json")
        assert (done.status, done.json["error"]["code"]) == (5, "runtime.is_default"), verb
    assert shared.ctl("runtimes", "default", fast).out.startswith("fast is the default")
    assert default_of(shared) == fast
    assert shared.ctl("runtimes", "default", first).status == 0
    assert default_of(shared) == first


def test_a_disabled_runtime_is_not_used(shared: RunningDaemon, fast: str, tone: str) -> None:
    assert shared.ctl("runtimes", "disable", fast).out == "fast is disabled\n"
    assert " disabled " in shared.ctl("runtimes", "list").out
    done = shared.ctl("transcribe", "--runtime", fast, tone, "--json")
    assert (done.status, done.json["error"]["code"]) == (5, "runtime.disabled")
    assert shared.ctl("runtimes", "enable", fast).out == "fast is enabled\n"
    assert shared.ctl("transcribe", "--runtime", fast, "--no-vad", tone).out == "transcribe 2.00 s\n"


def test_transcribing_with_a_runtime(shared: RunningDaemon, fast: str, tone: str) -> None:
    job = shared.ctl("transcribe", "--runtime", fast, "--no-vad", tone, "--json").json["job"]
    assert shared.ctl("jobs", "show", job, "--json").json["runtime"] == fast
    rows = [line.split() for line in shared.ctl("jobs", "list").out.splitlines()]
    assert fast in next(row for row in rows if row[0] == job)
    unknown = shared.ctl("transcribe", "--runtime", "fsat", tone)
    assert (unknown.status, unknown.out) == (4, "")
    assert fast in unknown.err


def test_several_names_continue_after_a_failure(shared: RunningDaemon, fast: str) -> None:
    done = shared.ctl("runtimes", "prepare", "nonsense", fast)
    assert (done.status, done.out) == (1, "fast has everything it needs\n")
    assert done.err.startswith("whisperctl: nonsense: ")


def test_cancelling_a_load(shared: RunningDaemon, toy: Callable[..., str], ctl_process: Start) -> None:
    model = Path(toy("slow"))
    (model / "hold_load").touch()
    shared.ctl("runtimes", "create", "slow", "--model", str(model))
    loading = ctl_process("runtimes", "load", "slow")
    until(lambda: shown(shared, "slow")["status"] == "loading")
    assert shared.ctl("runtimes", "cancel", "slow").out == "slow is cancelled\n"
    _, err = loading.communicate()
    assert loading.returncode == 1
    assert b"cancelled" in err
    (model / "hold_load").unlink()
    assert shared.ctl("runtimes", "delete", "slow").status == 0


@pytest.mark.skipif(os.name != "posix", reason="signals and terminals as on POSIX")
def test_ctrl_c_cancels_a_load(shared: RunningDaemon, toy: Callable[..., str]) -> None:
    model = Path(toy("slow"))
    (model / "hold_load").touch()
    shared.ctl("runtimes", "create", "slow", "--model", str(model))
    terminal = Terminal(shared, 80, "runtimes", "load", "slow")
    terminal.read_until("Loading slow")
    until(lambda: loads(model))
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.screen == [""]
    until(lambda: shown(shared, "slow")["status"] in ("cancelled", "unloaded"))
    (model / "hold_load").unlink()
    assert shared.ctl("runtimes", "delete", "slow").status == 0


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_watching_reports_every_change(shared: RunningDaemon, fast: str, ctl_process: Start) -> None:
    watching = ctl_process("runtimes", "list", "--watch", "--json")
    assert watching.stdout is not None

    def statuses_until(last: str) -> list[str]:
        assert watching.stdout is not None
        seen: list[str] = []
        while not seen or seen[-1] != last:
            runtime = json.loads(watching.stdout.readline())
            seen += [runtime["status"]] if runtime["name"] == fast else []
        return seen

    assert statuses_until("unloaded") == ["unloaded"]
    shared.ctl("runtimes", "load", fast)
    statuses_until("loaded")
    shared.ctl("runtimes", "unload", fast)
    statuses_until("unloaded")
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate()
    assert (watching.returncode, err) == (130, b"")


@pytest.mark.skipif(os.name != "posix", reason="terminals as on POSIX")
def test_watching_on_a_terminal(daemon: RunningDaemon, toy: Callable[..., str]) -> None:
    terminal = Terminal(daemon, 80, "runtimes", "list", "--watch", variables={"TERM": "xterm"})
    terminal.read_until("LEASES")
    daemon.ctl("runtimes", "create", "another", "--model", toy("another"))
    terminal.read_until("another")
    daemon.ctl("daemon", "stop")
    assert terminal.finish() == 3
    assert "closed the connection" in terminal.written


def test_a_profile_is_used(
    shared: RunningDaemon, fast: str, tone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = shared.ctl("profiles", "create", "german", "--runtime", fast, "--language", "de", "--no-vad")
    assert (created.status, created.out) == (0, "german is created\n"), created

    def used(*words: str) -> tuple[str, str | None, bool]:
        job = shared.ctl("transcribe", tone, "--json", *words).json["job"]
        job = shared.ctl("jobs", "show", job, "--json").json
        return job["runtime"], job["options"]["language"], job["options"]["vad"]

    assert used("--profile", "german") == (fast, "de", False)
    assert used("--profile", "german", "--language", "auto") == (fast, "auto", False)
    monkeypatch.setitem(shared.env, "WHISPERD_PROFILE", "german")
    assert used() == (fast, "de", False)
    assert used("--profile", "", "--no-vad") == (default_of(shared), None, False)
    monkeypatch.delitem(shared.env, "WHISPERD_PROFILE")
    shared.ctl("profiles", "edit", "german", "--unset", "language", "--task", "translate")
    assert shared.ctl("profiles", "show", "german", "--json").json["options"] == {
        "task": "translate",
        "vad": False,
    }
    assert shared.ctl("profiles", "delete", "german").out == "german is deleted\n"
    assert shared.ctl("transcribe", tone, "--profile", "german").status == 4
