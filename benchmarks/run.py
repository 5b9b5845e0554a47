"""Runs the measurements and prints a table: `python benchmarks/run.py [NAME...] [--audio FOLDER]`.

Every figure is a ratio or a difference within one run; the JSON that is written beside holds all
single values. Exit status 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import REPOSITORY, Outcome, RunningDaemon, machine

MEASUREMENTS = (
    "size",
    "client",
    "idle",
    "hardware",
    "calibration",
    "latency",
    "live",
    "runtimes",
    "accuracy",
    "whispercpp",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(MEASUREMENTS)} (all)")
    parser.add_argument(
        "--audio", type=Path, default=REPOSITORY / "tests/data/audio", help="recordings with a manifest.json"
    )
    options = parser.parse_args()
    outcomes = measure_all(options.names or MEASUREMENTS, options.audio.absolute())
    for outcome in outcomes:
        print_outcome(outcome)
    print(f"\nWritten to {write(outcomes)}")
    return 0 if all(outcome.met for outcome in outcomes) else 1


def measure_all(names: tuple[str, ...] | list[str], audio: Path) -> list[Outcome]:
    with TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder), toy=False).start()
        try:
            return [import_module(f"benchmarks.{name}").measure(daemon, audio) for name in names]
        finally:
            daemon.close()


def print_outcome(outcome: Outcome) -> None:
    print(f"\n{outcome.name}: {outcome.goal} — {'met' if outcome.met else 'MISSED'}")
    width = max(len(label) for label, _ in outcome.rows)
    for label, value in outcome.rows:
        print(f"  {label.ljust(width)}  {value}")


def write(outcomes: list[Outcome]) -> Path:
    folder = REPOSITORY / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(
        json.dumps({"machine": machine(), "outcomes": [asdict(one) for one in outcomes]}, indent=2)
    )
    return path.relative_to(REPOSITORY)


if __name__ == "__main__":
    sys.exit(main())
