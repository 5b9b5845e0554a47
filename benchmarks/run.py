"""Run the measurements and print tables: `python benchmarks/run.py [NAME...] [--audio FOLDER]`.

Every figure is a ratio or a difference within one run; a JSON file in benchmarks/results/ has all single
values. The exit status is 1 if a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.measure import CACHE, REPOSITORY, Outcome, RunningDaemon, machine, make_short

MINUTES = {
    "size": 1,
    "client": 1,
    "idle": 1,
    "hardware": 1,
    "calibration": 5,
    "watch": 15,
    "latency": 2,
    "live": 2,
    "runtimes": 2,
    "accuracy": 2,
    "whispercpp": 5,
    "throughput": 12,
    "long": 25,
    "interrupted": 4,
    "clip": 3,
    "clients": 3,
    "peak": 1,
    "memory": 30,
}
"""Approximate duration of each on two idle cores."""


def main() -> int:
    options = parse(sys.argv[1:])
    if options.short:
        make_short()
    _cache_bytecode()
    outcomes = measure_all(options.names, options.audio.absolute())
    print(f"\nWritten to {write(outcomes, sys.argv[1:])}")
    return 0 if all(outcome.met for outcome in outcomes) else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="minutes on two idle cores: "
        + ", ".join(f"{name} {taken}" for name, taken in MINUTES.items()),
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(MINUTES)} (default: all)"
    )
    parser.add_argument(
        "--audio",
        type=Path,
        default=REPOSITORY / "tests/data/audio",
        help="folder of recordings with a manifest.json",
    )
    parser.add_argument(
        "--short", action="store_true", help="one round of each with short files, to check that it runs"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(MINUTES):
        parser.error(f"unknown measurement: {', '.join(sorted(unknown))}")
    options.names = options.names or list(MINUTES)
    return options


def measure_all(names: Sequence[str], audio: Path) -> list[Outcome]:
    outcomes = []
    with TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder), toy=False).start()
        try:
            for name in names:
                print(f"\n{name}: about {MINUTES[name]} minutes on an idle machine", file=sys.stderr)
                outcomes.append(import_module(f"benchmarks.{name}").measure(daemon, audio))
                print_outcome(outcomes[-1])
        finally:
            daemon.close()
    return outcomes


def print_outcome(outcome: Outcome) -> None:
    print(f"\n{outcome.name}: {outcome.goal} — {'met' if outcome.met else 'MISSED'}")
    for line in table(outcome):
        print(f"  {line}")
    sys.stdout.flush()


def table(outcome: Outcome) -> list[str]:
    """Return the rows as lines of text with aligned columns."""
    rows = [*([outcome.columns] if outcome.columns else []), *outcome.rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def write(outcomes: list[Outcome], arguments: Sequence[str]) -> Path:
    folder = REPOSITORY / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    found = {
        "machine": machine(),
        "arguments": list(arguments),
        "outcomes": [asdict(one) for one in outcomes],
    }
    path.write_text(json.dumps(found, indent=2))
    return path.relative_to(REPOSITORY)


def _cache_bytecode() -> None:
    """Cache bytecode, as an installation does; otherwise each start of a program recompiles its modules."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(CACHE / "bytecode"))


if __name__ == "__main__":
    sys.exit(main())
