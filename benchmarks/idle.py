"""An idle daemon: its memory, CPU time and wake-ups."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.measure import Outcome, RunningDaemon

GOAL_BYTES = 60 * 10**6
WATCHED_S = 10.0


def measure(_daemon: RunningDaemon, _audio: Path) -> Outcome:
    """Ask a fresh daemon for its status once, then leave it alone and measure."""
    with TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder), toy=False).start()
        try:
            daemon.ctl("daemon", "status")
            time.sleep(1.0)
            process = psutil.Process(daemon.pid)
            before, cpu_before = _wake_ups(daemon.pid), sum(process.cpu_times()[:2])
            time.sleep(WATCHED_S)
            wake_ups, cpu_s = _wake_ups(daemon.pid) - before, sum(process.cpu_times()[:2]) - cpu_before
            memory = process.memory_info().rss
        finally:
            daemon.close()
    return Outcome(
        "idle",
        f"idle daemon without a worker: at most {GOAL_BYTES / 1e6:.0f} MB, no wake-ups",
        memory <= GOAL_BYTES and wake_ups == 0,
        [
            ("resident memory", f"{memory / 1e6:.0f} MB"),
            (f"wake-ups in {WATCHED_S:.0f} s", str(wake_ups)),
            ("CPU time in that time", f"{cpu_s * 1000:.0f} ms"),
        ],
        {"memory_bytes": memory, "wake_ups": wake_ups, "cpu_s": cpu_s},
    )


def _wake_ups(pid: int) -> int:
    """Count how often a thread of the process yielded the CPU voluntarily, and so was woken again."""
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )
