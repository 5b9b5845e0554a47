"""Throughput of short recordings: whisperd, faster-whisper and whisper.cpp, with defaults and faster."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Chart, Outcome, RunningDaemon, bundle_path, median_ratio, rounds
from benchmarks.peers import FASTER_WHISPER, WHISPER_CPP, Run, faster_whisper, whisper_cli, whisperd
from benchmarks.recordings import Recording, as_wav, english

MODELS = ("tiny.en", "base")
JUDGED = "base"
ROUNDS = 3
GOAL_FASTER_WHISPER, GOAL_WHISPER_CPP = 4.0, 6.0
GOAL_WORSE_PERCENT = 0.3

OURS = "whisperd"
THEIRS = "faster-whisper, defaults"
CPP = "whisper.cpp, defaults"


def measure(daemon: RunningDaemon, audio: Path) -> Outcome:
    """Run all programs in turn, for each model."""
    with TemporaryDirectory() as folder:
        recordings = as_wav(english(audio)[: rounds(1000, 3)], Path(folder), bundle_path(daemon, "media"))
        found = {model: _in_turn(daemon, model, recordings) for model in MODELS}
    total_s = sum(one.duration_s for one in recordings)
    ours, theirs, cpp = (found[JUDGED][name] for name in (OURS, THEIRS, CPP))
    faster, faster_cpp = _ratio(theirs, ours), _ratio(cpp, ours)
    worse = ours[0].errors_percent(recordings) - theirs[0].errors_percent(recordings)
    return Outcome(
        "throughput",
        f"{len(recordings)} English recordings, {total_s:.0f} s, {JUDGED}: at least "
        f"{GOAL_FASTER_WHISPER:g} times as fast as faster-whisper and {GOAL_WHISPER_CPP:g} times as fast as "
        f"whisper.cpp by default, word errors at most {GOAL_WORSE_PERCENT} points more",
        faster >= GOAL_FASTER_WHISPER and faster_cpp >= GOAL_WHISPER_CPP and worse <= GOAL_WORSE_PERCENT,
        [row for model in MODELS for row in _rows(model, found[model], recordings, total_s)],
        {
            "seconds": {
                m: {n: [r.seconds for r in runs] for n, runs in by.items()} for m, by in found.items()
            },
            "texts": {m: {n: runs[0].texts for n, runs in by.items()} for m, by in found.items()},
        },
        ("", "seconds", "times real time", "whisperd is … times as fast", "word errors", "peak memory"),
        [
            Chart(
                f"throughput-{model}",
                f"{model}, {len(recordings)} short English recordings: times faster than real time",
                "x",
                tuple((name, total_s / _median_s(runs)) for name, runs in found[model].items()),
            )
            for model in MODELS
        ],
    )


def _in_turn(daemon: RunningDaemon, model: str, recordings: Sequence[Recording]) -> dict[str, list[Run]]:
    programs: dict[str, Callable[[], Run]] = {
        OURS: lambda: whisperd(daemon, model, recordings),
        "whisperd, greedy": lambda: whisperd(daemon, model, recordings, beam_size=1),
    }
    for mode in FASTER_WHISPER:
        programs[f"faster-whisper, {mode}"] = partial(faster_whisper, daemon, model, recordings, mode)
    for mode in WHISPER_CPP:
        programs[f"whisper.cpp, {mode}"] = partial(whisper_cli, daemon, model, recordings, mode)
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for _ in range(rounds(ROUNDS)):
        for name, program in programs.items():
            runs[name].append(program())
    return runs


def _rows(
    model: str, found: dict[str, list[Run]], recordings: Sequence[Recording], total_s: float
) -> list[tuple[str, ...]]:
    return [
        (
            f"{model}: {name}",
            f"{_median_s(runs):.1f}",
            f"{total_s / _median_s(runs):.0f}",
            f"{_ratio(runs, found[OURS]):.1f}",
            f"{runs[0].errors_percent(recordings):.2f} %",
            f"{max(run.peak_bytes for run in runs) / 1e6:.0f} MB",
        )
        for name, runs in found.items()
    ]


def _median_s(runs: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def _ratio(runs: Sequence[Run], ours: Sequence[Run]) -> float:
    return median_ratio([run.seconds for run in runs], [run.seconds for run in ours])
