"""Fixtures shared by the tests of the library: programs that use it, with the toy backend."""

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
    """The folders and environment of a user, without a running daemon."""
    return make_daemon(env={"PYTHONUNBUFFERED": "1"})


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Two seconds of a tone: with `vad=False` the toy model says `transcribe 2.00 s`."""
    return write_tone(tmp_path / "tone.wav", 2.0)


@pytest.fixture
def start(surroundings: RunningDaemon) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a program from its code. Programs are killed after the test."""
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
    """Return a function that runs a program and returns its output. Output on stderr fails the test."""

    def run(code: str, *arguments: object) -> str:
        out, err = start(code, *arguments).communicate(timeout=LIMIT_S)
        assert err == ""
        return out

    return run
