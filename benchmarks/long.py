"""Long files, joined from the English recordings: throughput at 30 minutes, memory at three hours."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.measure import Chart, MemoryWatch, Outcome, RunningDaemon, bundle_path, rounds
from benchmarks.peers import Run, faster_whisper, loaded, whisper_cli, whisperd
from benchmarks.recordings import Recording, as_wav, english, joined
from benchmarks.stamped_daemon import run_stamped

MODEL = "base"
MINUTES = (30, 180)
SHORT_MINUTES = (1, 3)
GOAL_FASTER_WHISPER, GOAL_WHISPER_CPP = 5.0, 7.0
GOAL_WORSE_PERCENT = 0.3
GOAL_BESIDE_BYTES = 300 * 10**6
GOAL_HELD_S = 120.0


class Watched(NamedTuple):
    """Time, memory and waiting audio of a long file."""

    run: Run
    beside_worker_bytes: int
    held_s: float
    """Seconds of audio that waited, at most."""
    first_segment_s: float
    windows_of_a_batch: float


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Run 30 minutes through all programs, and three hours through a daemon that records waiting audio."""
    middle_minutes, long_minutes = rounds(MINUTES[0], SHORT_MINUTES[0]), rounds(MINUTES[1], SHORT_MINUTES[1])
    with TemporaryDirectory() as name:
        folder = Path(name)
        wavs = as_wav(english(audio), folder, bundle_path(daemon, "media"))
        middle = joined(wavs, 60 * middle_minutes, folder / "middle.wav")
        runs = {
            "whisperd": whisperd(daemon, MODEL, [middle]),
            "faster-whisper, defaults": faster_whisper(daemon, MODEL, [middle], "defaults"),
            "faster-whisper, batched": faster_whisper(daemon, MODEL, [middle], "batched"),
            "whisper.cpp, defaults": whisper_cli(daemon, MODEL, [middle], "defaults"),
        }
        long = joined(wavs, 60 * long_minutes, folder / "long.wav")
        (folder / "daemon").mkdir()
        watched = _watched(folder / "daemon", long)
    return _outcome(runs, middle, watched, long)


def _outcome(runs: dict[str, Run], middle: Recording, watched: Watched, long: Recording) -> Outcome:
    ours, theirs, cpp = (
        runs[name] for name in ("whisperd", "faster-whisper, defaults", "whisper.cpp, defaults")
    )
    faster, faster_cpp = theirs.seconds / ours.seconds, cpp.seconds / ours.seconds
    worse = ours.errors_percent([middle]) - theirs.errors_percent([middle])
    middle_label, label = (f"{one.duration_s / 60:.0f} minutes" for one in (middle, long))
    return Outcome(
        "long",
        f"{middle_label}, {MODEL}: at least {GOAL_FASTER_WHISPER:g} times as fast as "
        f"faster-whisper, {GOAL_WHISPER_CPP:g} times as fast as whisper.cpp by default, word errors at most "
        f"{GOAL_WORSE_PERCENT} points more; {label}: at most {GOAL_BESIDE_BYTES / 1e6:.0f} MB without the "
        f"worker, {GOAL_HELD_S:.0f} s of waiting audio",
        faster >= GOAL_FASTER_WHISPER
        and faster_cpp >= GOAL_WHISPER_CPP
        and worse <= GOAL_WORSE_PERCENT
        and watched.beside_worker_bytes <= GOAL_BESIDE_BYTES
        and watched.held_s <= GOAL_HELD_S,
        [
            *(_row(f"{middle_label}: {name}", run, ours, middle) for name, run in runs.items()),
            _row(f"{label}: whisperd", watched.run, None, long),
            (f"{label}: without the worker", "", "", "", "", f"{watched.beside_worker_bytes / 1e6:.0f} MB"),
            (f"{label}: audio that waited at most", f"{watched.held_s:.0f}", "", "", "", ""),
            (f"{label}: first segment after", f"{watched.first_segment_s:.1f}", "", "", "", ""),
            (f"{label}: windows of a batch", f"{watched.windows_of_a_batch:.1f}", "", "", "", ""),
        ],
        {
            "seconds": {name: run.seconds for name, run in runs.items()} | {"long": watched.run.seconds},
            "beside_worker_bytes": watched.beside_worker_bytes,
            "held_s": watched.held_s,
            "first_segment_s": watched.first_segment_s,
            "windows_of_a_batch": watched.windows_of_a_batch,
        },
        ("", "seconds", "times real time", "whisperd is … times as fast", "word errors", "peak memory"),
        [
            Chart(
                "long",
                f"{MODEL}, {middle_label} in one file: times faster than real time",
                "x",
                tuple((name, middle.duration_s / run.seconds) for name, run in runs.items()),
            )
        ],
    )


def _watched(folder: Path, recording: Recording) -> Watched:
    path = folder / "times.json"
    with (
        run_stamped(folder, path) as daemon,
        loaded(daemon, MODEL) as client,
        MemoryWatch(daemon) as memory,
    ):
        began = time.perf_counter()
        job = client.submit(recording.path, runtime="bench", language="en", cache=False)
        first_s = 0.0
        for event in client.follow(job):
            if event["type"] == "transcription.segment" and not first_s:
                first_s = time.perf_counter() - began
        text = client.jobs.wait(job)["text"]
        seconds = time.perf_counter() - began
    times = json.loads(path.read_text())
    run = Run(seconds, [text], memory.peak_bytes)
    return Watched(run, memory.beside_worker_bytes, max(times["held_s"]), first_s, mean(times["batches"]))


def _row(label: str, run: Run, ours: Run | None, recording: Recording) -> tuple[str, ...]:
    return (
        label,
        f"{run.seconds:.1f}",
        f"{recording.duration_s / run.seconds:.0f}",
        f"{run.seconds / ours.seconds:.1f}" if ours else "",
        f"{run.errors_percent([recording]):.2f} %",
        f"{run.peak_bytes / 1e6:.0f} MB",
    )
