"""Watch folders: ten thousand files at once, a thousand that arrive, a hundred idle folders.

The engine is the toy of the tests, which computes nothing, so that only the work around it is measured.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import time
import wave
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.measure import REPOSITORY, MemoryWatch, Outcome, RunningDaemon, rounds
from whisperd_testing import toy_model

GOAL_STALL_S = 0.05
GOAL_BYTES = 150 * 10**6
IDLE_S = 60.0
IDLE_FOLDERS = 100
TICK_S = 0.01
"""The unit in which the kernel counts CPU time: less than two of them is not measurable."""
WAIT_S = 3600.0


def measure(_daemon: RunningDaemon | None = None, _audio: Path | None = None) -> Outcome:
    """Measure existing files, arriving files, and idle folders."""
    busy = _busy(rounds(10_000, 100), rounds(1000, 50))
    idle_s = _idle(rounds(IDLE_FOLDERS, 10), rounds(60, 5))
    exactly_once = busy["computed"] == busy["texts"] == busy["files"] and busy["doubled"] == 0
    return Outcome(
        "watch",
        f"every file exactly once, no stall over {GOAL_STALL_S * 1000:.0f} ms, at most "
        f"{GOAL_BYTES / 1e6:.0f} MB; idle with {IDLE_FOLDERS} folders: no measurable CPU time",
        exactly_once
        and busy["stall_s"] <= GOAL_STALL_S
        and busy["memory"] <= GOAL_BYTES
        and idle_s < 2 * TICK_S,
        [
            ("files", f"{busy['files']}, {busy['computed']} computed, {busy['texts']} texts"),
            ("existing files took", f"{busy['there_s']:.0f} s"),
            ("arriving files took", f"{busy['arrived_s']:.0f} s from the first"),
            ("longest stall of the event loop", f"{busy['stall_s'] * 1000:.0f} ms"),
            ("most CPU time between two beats", f"{busy['busy_s'] * 1000:.0f} ms"),
            ("peak memory of the daemon", f"{busy['memory'] / 1e6:.0f} MB"),
            ("CPU time of an idle minute", f"{idle_s * 1000:.0f} ms"),
        ],
        {**busy, "idle_s": idle_s},
    )


class _DaemonMemory(MemoryWatch):
    """Records the memory of the daemon's own process alone."""

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, psutil.Process(self._daemon.pid).memory_info().rss)


def _busy(there: int, arriving: int) -> dict[str, float]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        beats = folder / "beats.json"
        places = [str(REPOSITORY / "tests" / "backends"), str(REPOSITORY)]
        daemon = RunningDaemon(
            folder,
            toy=False,
            env={"PYTHONPATH": os.pathsep.join(places)},
            program=("benchmarks.beating_daemon", str(beats)),
        )
        daemon.settings("[watch]\nsettle_s = 1\n")
        daemon.start()
        try:
            model = toy_model(folder / "toy")
            daemon.make_default(model)
            tree = folder / "tree"
            paths = [tree / f"{number % 1000:03}" / f"{number}.wav" for number in range(there + arriving)]
            for path in paths[:1000]:
                path.parent.mkdir(parents=True, exist_ok=True)
            for number, path in enumerate(paths[:there]):
                _write(path, number)
            with _DaemonMemory(daemon) as memory:
                began_s = time.monotonic()
                with daemon.connect() as client:
                    client.watch.add(tree, options={"vad": False, "language": "en"})
                _wait(daemon, tree, there)
                there_s, began_s = time.monotonic() - began_s, time.monotonic()
                for number, path in enumerate(paths[there:], there):
                    _write(path, number)
                    time.sleep(max(0.0, began_s + 10 * (number - there) / arriving - time.monotonic()))
                _wait(daemon, tree, there + arriving)
                arrived_s = time.monotonic() - began_s
            lines = (model / "batches.jsonl").read_text().splitlines()
            durations = [duration for line in lines for duration in json.loads(line)["durations"]]
            with daemon.connect() as client:
                done = [one["path"] for one in client.watch.log(str(tree), 5000) if one["event"] == "done"]
            texts = sum(1 for path in paths if path.with_name(f"{path.stem}.en.txt").exists())
        finally:
            daemon.close()
        return {
            "files": there + arriving,
            "computed": len(durations),
            "texts": texts,
            "doubled": sum(count > 1 for count in collections.Counter(done).values()),
            "there_s": there_s,
            "arrived_s": arrived_s,
            "memory": memory.peak_bytes,
            **json.loads(beats.read_text()),
        }


def _write(path: Path, number: int) -> None:
    """Write a tenth of a second of sound, different for each number."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(number.to_bytes(4, "little") * 800)


def _wait(daemon: RunningDaemon, tree: Path, count: int) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        with daemon.connect() as client:
            watch = client.watch.show(str(tree))
        if watch["done"] + watch["failed"] >= count:
            return
        time.sleep(1.0)
    raise TimeoutError(f"{count} files were not done within {WAIT_S:.0f} s")


def _processor_s(pid: int) -> float:
    """Return the CPU time of a process, including its ended threads: on Linux to the nanosecond."""
    platform: str = sys.platform
    if platform == "linux":
        return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) names
    return sum(psutil.Process(pid).cpu_times()[:2])


def _idle(count: int, seconds: float) -> float:
    """Return the CPU time per minute of a daemon and its listener process, with `count` empty watch folders,
    measured over `seconds`."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        daemon = RunningDaemon(folder, toy=False).start()
        try:
            with daemon.connect() as client:
                for number in range(count):
                    (folder / str(number)).mkdir()
                    client.watch.add(folder / str(number))
            time.sleep(5.0)
            processes = [daemon.pid, *(child.pid for child in psutil.Process(daemon.pid).children())]
            before_s = sum(map(_processor_s, processes))
            time.sleep(seconds)
            return (sum(map(_processor_s, processes)) - before_s) * IDLE_S / seconds
        finally:
            daemon.close()
