"""Fixtures for the tests of the daemon."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from whisperd_testing import RunningDaemon

if sys.platform == "win32":  # the others need Unix sockets, file modes or signals
    collect_ignore_glob = ["test_[!hw]*.py", "test_hostile*.py"]

MakeDaemon = Callable[..., RunningDaemon]


@pytest.fixture
def limited(make_daemon: MakeDaemon) -> MakeDaemon:
    """Return a function that starts a daemon with these limits in its settings file."""

    def start(**limits: float) -> RunningDaemon:
        daemon = make_daemon()
        daemon.settings("[limits]\n" + "".join(f"{name} = {value}\n" for name, value in limits.items()))
        return daemon.start()

    return start


@pytest.fixture
def endless(toy: Callable[..., str]) -> str:
    """A model that never finishes loading: a job on it stays queued for the whole test."""
    return toy("endless", load_s=600)


@pytest.fixture
def some_file(tmp_path: Path) -> str:
    """A file that can be submitted as a job, but is not a recording."""
    path = tmp_path / "speech.wav"
    path.write_bytes(b"not audio")
    return str(path)
