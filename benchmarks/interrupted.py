"""A 30-minute file whose daemon is killed ten times: how much more machine time the same text costs.

    python -m benchmarks.interrupted FOLDER FILE MODEL KILLS

does it once, in processes of its own, and prints what it took. Machine time is the processor time of the
daemon and of all its processes, also of those that were killed with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import REPOSITORY, Outcome, RunningDaemon, bundle_path, model_path, rounds
from benchmarks.recordings import as_wav, english, joined

MODEL = "base"
MINUTES = 30
KILLS = 10
GOAL = 1.10
_PR_SET_CHILD_SUBREAPER = 36


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """The same file without and with interruptions, and as many starts with nothing to do."""
    minutes, kills = rounds(MINUTES, 2), rounds(KILLS, 2)
    model_path(daemon, MODEL)
    with TemporaryDirectory() as name:
        folder = Path(name)
        wavs = as_wav(english(audio), folder, bundle_path(daemon, "media"))
        long = joined(wavs, 60 * minutes, folder / "long.wav")
        without = _in_a_process(folder / "without", long.path, 0)
        interrupted = _in_a_process(folder / "with", long.path, kills)
        starts = _in_a_process(folder / "starts", None, kills)
    ratio = interrupted["machine_s"] / without["machine_s"]
    extra_s = interrupted["machine_s"] - without["machine_s"]
    again_s = max(0.0, extra_s - starts["machine_s"])
    is_same = interrupted["text"] == without["text"]
    return Outcome(
        "interrupted",
        f"{minutes} minutes with {MODEL}, killed {kills} times: the same text, at most "
        f"{GOAL - 1:.0%} more machine time",
        is_same and ratio <= GOAL,
        [
            ("machine time without interruption", f"{without['machine_s']:.1f} s"),
            (f"killed {kills} times", f"{interrupted['machine_s']:.1f} s ({ratio - 1:+.0%})"),
            ("of it: starts of daemon, engine and decoder", f"{starts['machine_s']:.1f} s"),
            ("of it: work that was done again", f"{again_s:.1f} s ({again_s / without['machine_s']:.0%})"),
            ("the same text", "yes" if is_same else "no"),
        ],
        {"without": without, "interrupted": interrupted, "starts": starts},
    )


def _in_a_process(folder: Path, file: str | None, kills: int) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.interrupted", str(folder), file or "", MODEL, str(kills)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _run(folder: Path, file: str, model: str, kills: int) -> dict[str, Any]:
    """Transcribe a file, with interruptions spread over it; without a file only start, as often."""
    # What a killed daemon leaves behind becomes ours, and its processor time is counted.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    daemon = RunningDaemon(folder, toy=False)
    began_s, text = time.monotonic(), None
    if file:
        with daemon.start().connect() as client:
            duration_s = Path(file).stat().st_size / 32_000
            job = client.submit(file, detach=True, model=model, language="en", priority="bulk")
        for number in range(1, kills + 1):
            _kill_at(daemon, job, duration_s * number / (kills + 1))
            daemon.start()
        with daemon.connect() as client:
            text = client.jobs.wait(job)["text"]
    else:
        for _ in range(kills):
            with daemon.start().connect() as client:
                client.transcribe(REPOSITORY / "tests/data/audio/austen-0880.wav", model=model, language="en")
            _kill(daemon)
        daemon.start()
    elapsed_s = time.monotonic() - began_s
    _kill(daemon)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"machine_s": used.ru_utime + used.ru_stime, "elapsed_s": elapsed_s, "text": text}


def _kill_at(daemon: RunningDaemon, job: str, done_s: float) -> None:
    """Kill the daemon once so much of the audio is done."""
    with daemon.connect() as client:
        for event in client.follow(job):
            if event is not None and event["type"] == "transcription.progress" and event["done"] >= done_s:
                break
        _kill(daemon)


def _kill(daemon: RunningDaemon) -> None:
    """Kill it, and wait until nothing of it is left."""
    daemon.signal(signal.SIGKILL)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    print(json.dumps(_run(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))))
