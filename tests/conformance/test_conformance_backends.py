"""Every installed backend passes the conformance suite, and so does the toy in what it supports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from toy_runtime import BACKENDS, ENGINE
from whisperd.installed_plugins import backends
from whisperd.models import ModelStore
from whisperd.natives import NativeStore
from whisperd.plugins import Backend, Variant
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.preset import RuntimePreset
from whisperd.testing.conformance import CHECKS, Suite
from whisperd_testing import CACHE, RunningDaemon

TOY_CANNOT = (
    "english",
    "long-windows",
    "temperatures",
    "memory",
    "language-found",
    "language-among",
    "translation",
    "unknown-compute-type",
    "unknown-device",
    "damaged-model",
    "prompts-heard",
    "word-places",
)
"""The toy's text is the length of a window, whatever is said in it, and it loads anything."""


def run_program(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "whisperd.testing.conformance", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def ready_made(name: str) -> str:
    """Return the best processor variant that need not be built locally."""
    preset = RuntimePreset(id="", name="test", model="", backend=name, device="cpu", created="", changed="")
    usable = anyio.run(Computer().usable_variants, preset)
    return next(one.name for own, one in usable if own.name == name and one.device == "cpu" and not one.build)


@pytest.fixture
def env(make_daemon: Callable[..., RunningDaemon]) -> dict[str, str]:
    """The environment of a program with the toy backend."""
    return make_daemon().env


@pytest.mark.real
@pytest.mark.parametrize("name", [backend.name for backend in backends()])
def test_a_backend_conforms(env: dict[str, str], name: str) -> None:
    done = run_program(name, "--variant", ready_made(name), "--json", env=env)
    report = json.loads(done.stdout)
    assert [one for one in report["checks"] if one["status"] != "ok"] == [], done.stderr
    assert (done.returncode, report["passed"]) == (0, True)


@pytest.mark.anyio
async def test_the_toy_conforms(
    tmp_path: Path, toy: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", BACKENDS)
    variant = Variant(name="toy-cpu", lock=None, device="cpu", priority=1, compute_types=("int8",))
    suite = Suite(
        Backend(name="toy", engine=ENGINE, variants=(variant,)),
        variant,
        NativeStore(tmp_path / "native", offline=True),
        ModelStore(CACHE / "models", sources=(), offline=True),
        model=toy("english", multilingual=False),
        multilingual=toy("multilingual"),
        skip=TOY_CANNOT,
    )
    outcomes = await suite.run()
    assert {one.name: one.reason for one in outcomes if one.status != "ok"} == {
        "locks": "no variant has a native bundle",
        **dict.fromkeys(TOY_CANNOT, "skipped on request"),
    }


def test_the_program_prints_the_outcome_of_each_check(env: dict[str, str], toy: Callable[..., str]) -> None:
    models = ("--model", toy("english", multilingual=False), "--multilingual", toy("several"))
    done = run_program("toy", *models, env=env)
    assert done.returncode == 1, "the toy fails some checks"
    title, *lines, summary = done.stdout.splitlines()
    assert title.startswith("toy-cpu: ")
    checks = [line.split()[:2] for line in lines if not line.startswith(" ")]
    assert [name for _, name in checks] == [name for name, _ in CHECKS]
    assert ["failed", "english"] in checks and ["ok", "order"] in checks
    assert any("100 % of the words are wrong" in line or " becomes " in line for line in lines)
    assert summary.endswith(" skipped") and " failed, " in summary


def refused(*arguments: str, env: dict[str, str]) -> dict[str, Any]:
    done = run_program(*arguments, "--json", env=env)
    assert done.returncode == 1
    return dict(json.loads(done.stdout)["error"])


def test_an_unknown_plugin(env: dict[str, str]) -> None:
    error = refused("tpy", env=env)
    assert error["code"] == "plugin.unknown"
    assert "toy" in error["fix"]


def test_an_unusable_plugin_is_explained(env: dict[str, str], tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whisperd]\nbroken = no_such_module\n")
    error = refused("broken", env={**env, "PYTHONPATH": str(tmp_path)})
    assert error["code"] == "plugin.broken"
    assert "no_such_module" in error["message"]


def test_an_unknown_variant(env: dict[str, str]) -> None:
    error = refused("toy", "--variant", "toy-cuda", env=env)
    assert error["code"] == "plugin.no_variant"
    assert "toy-cpu" in error["fix"]


def test_wrong_usage(env: dict[str, str]) -> None:
    for arguments in ((), ("toy", "--skip", "no-such-check")):
        done = run_program(*arguments, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr


def test_the_checks_are_listed(env: dict[str, str]) -> None:
    listed = run_program("--list", env=env).stdout.splitlines()
    assert [line.split()[0] for line in listed] == [name for name, _ in CHECKS]
