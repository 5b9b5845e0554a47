"""Tests that need an NVIDIA GPU; only `make test-gpu` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from whisperd_testing import RunningDaemon

FOR_GPU = "WHISPERD_TEST_GPU"
"""Set by `run.py` when it has found a GPU."""
MODEL = os.environ.get("WHISPERD_TEST_GPU_MODEL", "base")

if FOR_GPU not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def gpu_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon whose bundles and models are stored for the next run."""
    daemon = RunningDaemon(
        tmp_path_factory.mktemp("daemon"), toy=False, env={"WHISPERD_PRELOAD": "0"}
    ).start()
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def variant(gpu_daemon: RunningDaemon) -> dict[str, Any]:
    """The best variant for a GPU of this computer."""
    with gpu_daemon.connect() as client:
        judged = client.request("hardware.show")["variants"]
    usable = [one for one in judged if one["device"] == "cuda" and one["usable"]]
    reasons = [f"{one['name']}: {one['reason']}" for one in judged if one["device"] == "cuda"]
    assert usable, f"there is a GPU, and no variant can use it: {reasons}"
    return dict(max(usable, key=lambda one: one["priority"]))


@pytest.fixture(scope="session")
def measured() -> Iterator[dict[str, Any]]:
    """Measurements, printed at the end of the session."""
    numbers: dict[str, Any] = {}
    yield numbers
    for name, value in numbers.items():
        print(f"\n{name}: {value}")
