"""What the measurements share: timing whole commands in turn, word error rate, the machine."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from whisperd_testing import CACHE, RunningDaemon  # noqa: E402

__all__ = ["CACHE", "Outcome", "RunningDaemon", "bundle_path", "in_turn", "machine", "model_path", "words"]


@dataclass
class Outcome:
    """What a measurement found: rows of a table, and whether the goal was met."""

    name: str
    goal: str
    met: bool
    rows: list[tuple[str, str]]
    data: dict[str, Any] = field(default_factory=dict)


def in_turn(commands: Sequence[Callable[[], object]], *, rounds: int, warm_up: int = 1) -> list[list[float]]:
    """Seconds of each command in each round. They take turns, so that a drifting machine hits all alike."""
    seconds: list[list[float]] = [[] for _ in commands]
    for round_number in range(-warm_up, rounds):
        for command, times in zip(commands, seconds, strict=True):
            began = time.perf_counter()
            command()
            if round_number >= 0:
                times.append(time.perf_counter() - began)
    return seconds


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def run(command: Sequence[str], env: dict[str, str]) -> str:
    """Run a command to its end; returns its output."""
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def words(text: str) -> list[str]:
    """The words of a text, as people hear them: no case, no punctuation."""
    return re.findall(r"[\w']+", text.lower())


def bundle_path(daemon: RunningDaemon, name: str) -> str:
    """Where a native bundle lies; it is installed if need be."""
    daemon.ctl("natives", "install", name, timeout=600)
    return daemon.ctl("natives", "path", name).out.strip()


def model_path(daemon: RunningDaemon, name: str) -> str:
    """Where a model lies; it is downloaded if need be."""
    daemon.ctl("models", "pull", name, timeout=600)
    return daemon.ctl("models", "path", name).out.strip()


def machine() -> dict[str, Any]:
    """What this was measured on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
