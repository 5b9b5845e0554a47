"""Shared helpers of the measurements: timing commands in turn, memory, words, facts about the machine."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from whisperd_testing import CACHE, RunningDaemon  # noqa: E402

__all__ = [
    "CACHE",
    "Chart",
    "MemoryWatch",
    "Outcome",
    "RunningDaemon",
    "bundle_path",
    "in_turn",
    "machine",
    "make_short",
    "median_ratio",
    "model_path",
    "rounds",
    "words",
]

WATCH_INTERVAL_S = 0.2
_effort = {"short": False}


@dataclass(frozen=True)
class Chart:
    """A bar chart: a label and a value for each bar."""

    name: str
    title: str
    unit: str
    bars: tuple[tuple[str, float], ...]


@dataclass
class Outcome:
    """The result of a measurement: rows of a table, and whether the goal was met."""

    name: str
    goal: str
    met: bool
    rows: Sequence[tuple[str, ...]]
    data: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    """Column headings, if the rows need them."""
    charts: Sequence[Chart] = ()


def make_short() -> None:
    """Have every measurement do as little as possible, to check that it runs; its figures mean nothing."""
    _effort["short"] = True


def rounds(full: int, short: int = 1) -> int:
    """Return the number of repetitions, or the amount of work: `short` after `make_short`, else `full`."""
    return short if _effort["short"] else full


class MemoryWatch:
    """Records the peak resident memory of a daemon and its processes during the block."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._daemon = daemon
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_bytes = 0
        """Peak of all processes together."""
        self.beside_worker_bytes = 0
        """Peak of the daemon and all its processes except the workers."""

    def __enter__(self) -> MemoryWatch:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(WATCH_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        workers = {process.pid for process in self._daemon.workers()}
        resident = {
            process.pid: _resident_bytes(process)
            for process in (psutil.Process(self._daemon.pid), *self._daemon.children())
        }
        beside = sum(size for pid, size in resident.items() if pid not in workers)
        self.peak_bytes = max(self.peak_bytes, sum(resident.values()))
        self.beside_worker_bytes = max(self.beside_worker_bytes, beside)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def in_turn(commands: Sequence[Callable[[], object]], *, rounds: int, warm_up: int = 1) -> list[list[float]]:
    """Return the seconds of each command by round. Commands take turns, so that a drift affects all alike."""
    seconds: list[list[float]] = [[] for _ in commands]
    for round_number in range(-warm_up, rounds):
        for command, times in zip(commands, seconds, strict=True):
            began = time.perf_counter()
            command()
            if round_number >= 0:
                times.append(time.perf_counter() - began)
    return seconds


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def run(command: Sequence[str], env: dict[str, str]) -> str:
    """Run a command to its end and return its standard output. Standard error is shown."""
    return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def words(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation."""
    return re.findall(r"[\w']+", text.lower())


def bundle_path(daemon: RunningDaemon, name: str) -> str:
    """Return the folder of a native bundle, installing it if necessary."""
    daemon.ctl("natives", "install", name, timeout=600)
    return daemon.ctl("natives", "path", name).out.strip()


def model_path(daemon: RunningDaemon, name: str) -> str:
    """Return the folder of a model, downloading it if necessary."""
    daemon.ctl("models", "pull", name, timeout=600)
    return daemon.ctl("models", "path", name).out.strip()


def machine() -> dict[str, Any]:
    """Describe the machine of this measurement."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": _versions(),
        "load_before": os.getloadavg()[0],
    }


def _versions() -> dict[str, str]:
    """Return the versions of the compared programs, if installed."""
    versions: dict[str, str] = {}
    for folder in sorted(CACHE.glob("native/*/ctranslate2-cpu/*.dist-info")):
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        if name in ("ctranslate2", "faster_whisper"):
            versions[name.replace("_", "-")] = version
    for path in CACHE.glob("whispercpp/*/whisper.cpp/CMakeLists.txt"):
        if found := re.search(r'project\("whisper.cpp" VERSION (\S+)\)', path.read_text("utf-8")):
            versions["whisper.cpp"] = found[1]
    return versions


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
