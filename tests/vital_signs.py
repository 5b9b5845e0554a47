"""Resource use of an idle daemon, and whether it grows from one measurement to the next."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from whisperd_testing import RunningDaemon, until

__all__ = ["Signs", "certain_slope", "grown", "measure", "slope"]

CERTAINTY = 1.645
"""The required certainty of a trend in standard deviations: 95 %, one-sided."""
KEPT_ROWS = {"work", "runtime_history", "watch_files", "watch_outputs", "watch_log", "former_outputs"}
"""Tables whose rows are kept for days, or record the latest events."""


@dataclass(frozen=True)
class Signs:
    """The resource use of an idle daemon."""

    counts: Mapping[str, int]
    """Counts that must stay equal: descriptors, threads, tasks, children, files, rows."""
    sizes: Mapping[str, float]
    """Sizes that vary but must not grow: bytes of memory and of the database, Python's blocks and objects."""
    objects: Mapping[str, int]
    """All objects by type. Some are created once, some only now and then; none may leak each time."""


def measure(daemon: RunningDaemon, temporary: Path) -> Signs:
    """Make a daemon free what it can, and measure what is left. Its `TIDY` and `TMPDIR` must be set."""
    tidy = Path(daemon.env["TIDY"])
    tidy.unlink(missing_ok=True)
    daemon.signal(signal.SIGUSR2)
    until(tidy.exists, "the daemon to tidy up")
    inside = json.loads(tidy.read_text())
    process, database = psutil.Process(daemon.pid), daemon.folder / "state" / "whisperd.sqlite3"
    counts = {
        **_named("task", inside["tasks"]),
        **_named("child", Counter(map(_role, process.children()))),
        **_named("row of", _rows(database)),
        **_named("file", Counter([*_files(daemon.folder / "state"), *_files(temporary)])),
        "thread": inside["threads"] - inside["pooled_threads"],
        "descriptor": process.num_fds(),
    }
    sizes = {
        "memory": process.memory_full_info().uss,
        "blocks": inside["blocks"],
        "objects": sum(inside["objects"].values()),
        "database": database.stat().st_size,
    }
    return Signs(counts, sizes, inside["objects"])


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> Mapping[str, tuple[int, int]]:
    """Return the counts that have grown: before and after, by name."""
    return {
        name: (before.get(name, 0), count) for name, count in after.items() if count > before.get(name, 0)
    }


def _named(kind: str, counts: Mapping[str, int]) -> Mapping[str, int]:
    return {f"{kind} {name}": count for name, count in counts.items()}


def _role(process: psutil.Process) -> str:
    """Return the module that a child process runs."""
    try:
        return next((word for word in process.cmdline() if word.startswith("whisperd.")), "other")
    except psutil.Error:
        return "that ends"


def _rows(database: Path) -> Mapping[str, int]:
    """Count the rows of each table, except those in `KEPT_ROWS`."""
    with closing(sqlite3.connect(database)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
            for (name,) in names
            if name not in KEPT_ROWS
        }


def _files(folder: Path) -> set[str]:
    """Return the files below a folder, all logs as one. A file deleted during the scan does not count."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    names = {str(path.relative_to(folder)) for path in found if path.is_file()}
    return {"daemon.log" if name.startswith("daemon.log") else name for name in names}


def slope(values: Sequence[float]) -> float:
    """Return the growth per value: the median slope of all pairs (Theil 1950; Sen 1968).

    Up to 29 % of the values may be arbitrary outliers.
    """
    return median(_slopes(values)) if len(values) > 1 else 0.0


def certain_slope(values: Sequence[float]) -> float:
    """Return the least growth per value, with 95 % certainty: the lower limit of Sen's (1968) interval.

    Minus infinity if there are too few values.
    """
    slopes, count = _slopes(values), len(values)
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    place = math.floor((len(slopes) - CERTAINTY * deviation) / 2)
    return slopes[place] if 0 <= place < len(slopes) else -math.inf


def _slopes(values: Sequence[float]) -> list[float]:
    return sorted(
        (later - earlier) / (second - first)
        for first, earlier in enumerate(values)
        for second, later in enumerate(values[first + 1 :], first + 1)
    )
