"""Extra machine time for the same text if the daemon is killed ten times during a 30-minute file.

    python -m benchmarks.interrupted FOLDER FILE MODEL KILLS

runs it once, in separate processes, and prints the time used. Machine time is the CPU time of the daemon and
of all its processes, including those killed with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.measure import REPOSITORY, Outcome, RunningDaemon, bundle_path, model_path, rounds
from benchmarks.recordings import as_wav, english, joined

MODEL = "base"
MINUTES = 30
KILLS = 10
CLIP = REPOSITORY / "tests/data/audio/austen-0880.wav"
"""The recording used if only the starts are measured."""
GOAL = 1.10
_PR_SET_CHILD_SUBREAPER = 36

PARTS = {
    "whisperd.worker.main": "engine",
    "whisperd.audio.decoder": "decoder",
    "whisperd": "daemon",
}
"""Name of a process by a word of its command line; the first match counts."""


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Measure a file with and without interruptions, and as many starts without the file."""
    minutes, kills = rounds(MINUTES, 2), rounds(KILLS, 2)
    model_path(daemon, MODEL)
    with TemporaryDirectory() as name:
        folder = Path(name)
        wavs = as_wav(english(audio), folder, bundle_path(daemon, "media"))
        long = joined(wavs, 60 * minutes, folder / "long.wav")
        without = _in_a_process(folder / "without", long.path, 0)
        interrupted = _in_a_process(folder / "with", long.path, kills)
        starts = _in_a_process(folder / "starts", None, kills)
    whole_s = without["machine_s"]
    extra_s = interrupted["machine_s"] - whole_s
    again_s = max(0.0, extra_s - starts["machine_s"])
    is_same = interrupted["text"] == without["text"]
    return Outcome(
        "interrupted",
        f"{minutes} minutes with {MODEL}, killed {kills} times: the same text, at most "
        f"{GOAL - 1:.0%} more machine time",
        is_same and extra_s / whole_s <= GOAL - 1,
        [
            ("machine time without interruption", f"{whole_s:.1f} s", _parts(without)),
            (
                f"killed {kills} times",
                _share(interrupted["machine_s"] - whole_s, whole_s),
                _parts(interrupted),
            ),
            (
                "of it: starts of daemon, engine and decoder",
                _share(starts["machine_s"], whole_s),
                _parts(starts),
            ),
            ("of it: repeated work", _share(again_s, whole_s), ""),
            ("per kill", _share(extra_s / kills, whole_s), ""),
            ("the same text", "yes" if is_same else "no", ""),
        ],
        {"without": without, "interrupted": interrupted, "starts": starts},
    )


def _share(extra_s: float, whole_s: float) -> str:
    return f"{extra_s:+.1f} s ({extra_s / whole_s:+.1%})"


def _parts(taken: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(taken["parts"].items()))


def _in_a_process(folder: Path, file: str | None, kills: int) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.interrupted", str(folder), file or "", MODEL, str(kills)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


class _Machine:
    """A daemon that is killed repeatedly, and the CPU time of all its processes."""

    def __init__(self, folder: Path) -> None:
        # Adopt the orphans of a killed daemon, so that their CPU time is counted.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.daemon = RunningDaemon(folder, toy=False)
        self.used_s: defaultdict[str, float] = defaultdict(float)
        self._began_s = time.monotonic()

    def kill(self) -> None:
        """Kill the daemon, and wait until all its processes have ended."""
        names = {one.pid: _part_of(one) for one in psutil.Process().children(recursive=True)}
        self.daemon.signal(signal.SIGKILL)
        while True:
            try:
                pid, _, used = os.wait4(-1, 0)
            except ChildProcessError:
                return
            self.used_s[names.get(pid, "others")] += used.ru_utime + used.ru_stime

    def report(self, what: str) -> None:
        """Print a progress line."""
        so_far = (
            f"{time.monotonic() - self._began_s:4.0f} s, {sum(self.used_s.values()):6.1f} s of machine time"
        )
        print(f"  {so_far}: {what}", file=sys.stderr, flush=True)


def _part_of(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        line = process.cmdline()
        return next((part for word, part in PARTS.items() if word in line), "others")
    return "others"


def _run(folder: Path, file: str, model: str, kills: int) -> dict[str, Any]:
    """Transcribe a file, with interruptions spread over it; without a file, only start and kill as often."""
    machine = _Machine(folder)
    text = None
    if file:
        text = _transcribe(machine, file, model, kills)
    else:
        _only_start(machine, model, kills)
    machine.kill()
    machine.report("done")
    return {"machine_s": sum(machine.used_s.values()), "parts": machine.used_s, "text": text}


def _transcribe(machine: _Machine, file: str, model: str, kills: int) -> str:
    daemon = machine.daemon
    duration_s = Path(file).stat().st_size / 32_000
    with daemon.start().connect() as client:
        job = client.submit(file, detach=True, model=model, language="en", priority="bulk")
    for number in range(1, kills + 1):
        done_s = _wait_until(daemon, job, duration_s * number / (kills + 1))
        if done_s is None:  # a short file may finish first
            break
        machine.kill()
        machine.report(f"kill {number} of {kills}, {done_s:.0f} of {duration_s:.0f} s are done")
        daemon.start()
    with daemon.connect() as client:
        return str(client.jobs.wait(job)["text"])


def _only_start(machine: _Machine, model: str, kills: int) -> None:
    for number in range(1, kills + 1):
        with machine.daemon.start().connect() as client:
            client.transcribe(CLIP, model=model, language="en", cache=False)
        machine.kill()
        machine.report(f"start {number} of {kills}")
    machine.daemon.start()


def _wait_until(daemon: RunningDaemon, job: str, done_s: float) -> float | None:
    """Wait until `done_s` of the audio are done; return the amount done, or None if the job has ended."""
    with daemon.connect() as client:
        for event in client.follow(job):
            if event is not None and event["type"] == "transcription.progress" and event["done"] >= done_s:
                return float(event["done"])
    return None


if __name__ == "__main__":
    print(json.dumps(_run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))))
