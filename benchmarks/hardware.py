"""Cost of hardware detection, and whether other requests wait for it."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import anyio

from benchmarks.measure import Outcome, RunningDaemon, in_turn, rounds
from whisperd.hardware import Hardware, find_hardware

GOAL_MS = 300.0
ROUNDS = 21


def measure(daemon: RunningDaemon, _audio: Path) -> Outcome:
    """Measure the milliseconds of all probes, in their processes, and of another request during detection."""
    found: list[Hardware] = []
    (seconds,) = in_turn([lambda: found.append(anyio.run(find_hardware))], rounds=rounds(ROUNDS))
    detection_ms = statistics.median(seconds) * 1000
    unknown = sorted({name for one in found for name in one.unknown})
    idle_ms, meanwhile_ms = _status_ms(daemon, busy=False), _status_ms(daemon, busy=True)
    return Outcome(
        "hardware",
        f"detection with all probes takes at most {GOAL_MS:.0f} ms",
        detection_ms <= GOAL_MS and not unknown,
        [
            ("all probes, median", f"{detection_ms:.0f} ms"),
            ("all probes, slowest", f"{max(seconds) * 1000:.0f} ms"),
            ("facts not determined", ", ".join(unknown) or "none"),
            ("daemon.status, median", f"{idle_ms:.1f} ms"),
            ("daemon.status while the daemon detects", f"{meanwhile_ms:.1f} ms"),
        ],
        {"seconds": seconds, "unknown": unknown, "status_ms": idle_ms, "meanwhile_ms": meanwhile_ms},
    )


def _status_ms(daemon: RunningDaemon, *, busy: bool) -> float:
    """Return the median of a short request, alone or during repeated hardware detection."""
    is_over = threading.Event()

    def look() -> None:
        with daemon.connect() as client:
            while not is_over.is_set():
                client.hardware.show()

    looking = threading.Thread(target=look)
    if busy:
        looking.start()
    seconds = []
    with daemon.connect() as client:
        for _ in range(100):
            began = time.perf_counter()
            client.daemon.status()
            seconds.append(time.perf_counter() - began)
            time.sleep(0.01)
    is_over.set()
    if busy:
        looking.join()
    return statistics.median(seconds) * 1000
