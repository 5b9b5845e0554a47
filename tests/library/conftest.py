"""What the tests of the library share: programs that use it, with the toy backend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from whisperd_testing import LIMIT_S, RunningDaemon, write_tone


@pytest.fixture
def surroundings(make_daemon: Callable[..., RunningDaemon]) -> RunningDaemon:
    """The folders and the environment of a user; no daemon runs in them."""
    return make_daemon(env={"PYTHONUNBUFFERED": "1"})


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Two seconds of a tone: with `vad=False` the toy model says `transcribe 2.00 s`."""
    return write_tone(tmp_path / "tone.wav", 2.0)


@pytest.fixture
def start(surroundings: RunningDaemon) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a program, given as its code; it is killed after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys, whisperd\n" + dedent(code), *map(str, arguments)],
            env=surroundings.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Runs a program to its end; returns what it prints. One that fails, or complains, fails the test."""

    def run(code: str, *arguments: object) -> str:
        out, err = start(code, *arguments).communicate(timeout=LIMIT_S)
        assert err == ""
        return out

    return run
