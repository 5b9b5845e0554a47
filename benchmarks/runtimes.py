"""Cost of a saved runtime: the time from a request to its first work, and the memory freed by unloading."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.measure import Outcome, RunningDaemon, rounds
from benchmarks.stamped_daemon import run_stamped
from whisperd_testing import toy_model, write_tone

GOAL_MS = 5.0
REQUESTS = 1000
WARM_UP = 50
SAVED = 50
MODEL = "base"
GOAL_KEPT = 0.03
"""The share of the memory that may remain in use, for what the daemon has cached in the meantime."""


def measure(_daemon: RunningDaemon, _audio: Path) -> Outcome:
    """Measure on separate daemons, because the given one may have loaded a model already."""
    count = rounds(REQUESTS, 20)
    times = _first_work(count)
    to_decoder_ms = _milliseconds(times["read"], times["decoding"])
    to_engine_ms = _milliseconds(times["read"], times["computing"])
    whole_ms = _milliseconds(times["asked"], times["answered"])
    first_ms = statistics.median(to_decoder_ms)
    share = statistics.median(a / b for a, b in zip(to_decoder_ms, whole_ms, strict=True))
    before, loaded, after = _memory()
    kept = (after - before) / (loaded - before)
    return Outcome(
        "runtimes",
        f"{SAVED} saved, one loaded: under {GOAL_MS:.0f} ms from a request to its first work, the median of "
        f"{count:,}; {MODEL} unloaded: at most {GOAL_KEPT:.0%} of its memory stay",
        first_ms < GOAL_MS and kept <= GOAL_KEPT,
        [
            (
                "request read → decoder asked",
                f"{first_ms:.1f} ms (95 %: {_percentile(to_decoder_ms):.1f} ms)",
            ),
            ("request read → engine asked", f"{statistics.median(to_engine_ms):.1f} ms"),
            ("asked → answered, at the client", f"{statistics.median(whole_ms):.1f} ms"),
            ("share of the first in the last", f"{share:.0%}"),
            ("memory before", f"{before / 1e6:.0f} MB"),
            (f"with {MODEL} loaded", f"{loaded / 1e6:.0f} MB"),
            ("unloaded again", f"{after / 1e6:.0f} MB"),
        ],
        {"times": times, "before_bytes": before, "loaded_bytes": loaded, "after_bytes": after},
    )


def _first_work(count: int) -> dict[str, list[float]]:
    """Record when each job was sent, read by the daemon, given to a decoder and an engine, and answered."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "times.json"
        asked, answered = [], []
        with run_stamped(folder, path, toy=True) as daemon, daemon.connect() as client:
            sound = write_tone(folder / "tone.wav", 1.0)
            model = toy_model(folder / "toy")
            for number in range(SAVED):
                client.runtimes.create(f"runtime {number}", str(model), keep_alive="never")
            client.runtimes.load(f"runtime {SAVED - 1}")
            for _ in range(WARM_UP + count):
                asked.append(time.perf_counter())
                client.transcribe(sound, runtime=f"runtime {SAVED - 1}", vad=False, cache=False)
                answered.append(time.perf_counter())
        times: dict[str, Any] = {**json.loads(path.read_text()), "asked": asked, "answered": answered}
    return {kind: values[-count:] for kind, values in times.items()}


def _memory() -> tuple[int, int, int]:
    """Measure the daemon and all its processes before a model is loaded, with it, and after unloading."""
    with TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder), toy=False, env={"WHISPERD_PRELOAD": "0"}).start()
        try:
            with daemon.connect() as client:
                client.runtimes.create("measured", MODEL)
                # The first load lets the daemon itself grow, which is not memory of the model.
                client.runtimes.load("measured")
                client.runtimes.unload("measured")
                before = _settled(daemon)
                client.runtimes.load("measured")
                time.sleep(2.0)  # until a decoder has started
                loaded = _own_bytes(daemon)
                client.runtimes.unload("measured")
                return before, loaded, _settled(daemon)
        finally:
            daemon.close()


def _settled(daemon: RunningDaemon) -> int:
    """Wait until only the daemon's own process is left, and return its memory."""
    psutil.wait_procs(daemon.children(), timeout=60)
    assert not daemon.children()
    return _own_bytes(daemon)


def _own_bytes(daemon: RunningDaemon) -> int:
    """Return the memory not shared with other processes, which is free once these have ended."""
    processes = [psutil.Process(daemon.pid), *daemon.children()]
    return sum(process.memory_full_info().uss for process in processes)


def _milliseconds(begins: list[float], ends: list[float]) -> list[float]:
    return [(end - begin) * 1000 for begin, end in zip(begins, ends, strict=True)]


def _percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]
