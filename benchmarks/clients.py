"""Sixteen clients at once, each with one clip, compared with one client with all these clips in one call."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Chart, Outcome, RunningDaemon, bundle_path, in_turn, median_ratio, rounds, run
from benchmarks.peers import loaded
from benchmarks.recordings import as_wav, english

MODEL = "base"
CLIENTS = 16
LENGTHS_S = (2.9, 16.1)
ROUNDS = 7
GOAL = 1.0


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Measure connected programs, and `whisperctl`, whose sixteen starts take time themselves."""
    with TemporaryDirectory() as name:
        wavs = as_wav(english(audio), Path(name), bundle_path(daemon, "media"))
        clips = [one.path for one in wavs if LENGTHS_S[0] <= one.duration_s <= LENGTHS_S[1]]
        clips = list(islice(cycle(clips), CLIENTS))
        with loaded(daemon, MODEL):
            whisperctl = [str(Path(sys.executable).with_name("whisperctl")), "transcribe", "--no-cache"]
            whisperctl += ["--language", "en", "--runtime", "bench"]
            connected: list[float] = []
            one_call, processes, _ = in_turn(
                [
                    lambda: run([*whisperctl, *clips], daemon.env),
                    lambda: _processes([[*whisperctl, clip] for clip in clips], daemon),
                    lambda: connected.append(_connected(daemon, clips)),
                ],
                rounds=rounds(ROUNDS),
            )
    connected = connected[-len(one_call) :]  # without the warm-up
    seconds = {
        "one whisperctl with all clips": one_call,
        f"{CLIENTS} connected clients": connected,
        f"{CLIENTS} whisperctl": processes,
    }
    share = median_ratio(connected, one_call)
    return Outcome(
        "clients",
        f"{CLIENTS} clients at once, a clip each, {MODEL}: no slower than one client with all clips in one "
        "call",
        share <= GOAL,
        [
            *((label, f"{statistics.median(values):.2f} s") for label, values in seconds.items()),
            ("connected clients to one call, median of pairs", f"{share:.2f}"),
            (
                f"{CLIENTS} whisperctl to one call, median of pairs",
                f"{median_ratio(processes, one_call):.2f}",
            ),
        ],
        {"seconds": seconds},
        charts=[
            Chart(
                "clients",
                f"The same {CLIENTS} clips, {MODEL}",
                "s",
                tuple((label, statistics.median(values)) for label, values in seconds.items()),
            )
        ],
    )


def _processes(commands: list[list[str]], daemon: RunningDaemon) -> None:
    running = [subprocess.Popen(one, env=daemon.env, stdout=subprocess.DEVNULL) for one in commands]
    for process in running:
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, process.args)


def _connected(daemon: RunningDaemon, clips: list[str]) -> float:
    """Measure the seconds from when all clients are connected until the last has its text."""
    ready = threading.Barrier(CLIENTS + 1)

    def ask(clip: str) -> str:
        with daemon.connect() as client:
            ready.wait()
            return client.transcribe(clip, runtime="bench", language="en", cache=False).text

    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, clip) for clip in clips]
        ready.wait()
        began = time.perf_counter()
        for one in asked:
            one.result()
        return time.perf_counter() - began
