"""Start-up cost of the thin client: `whisperctl daemon status` compared with `python -c pass`."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.measure import Outcome, RunningDaemon, in_turn, rounds, run

GOAL_MS = 60.0
ROUNDS = 41


def measure(daemon: RunningDaemon, _audio: Path) -> Outcome:
    """Measure the milliseconds that the client takes beyond the start of the interpreter."""
    whisperctl = str(Path(sys.executable).with_name("whisperctl"))
    status, bare = in_turn(
        [
            lambda: run([whisperctl, "daemon", "status"], daemon.env),
            lambda: run([sys.executable, "-c", "pass"], daemon.env),
        ],
        rounds=rounds(ROUNDS),
    )
    status_ms, bare_ms = statistics.median(status) * 1000, statistics.median(bare) * 1000
    extra_ms = statistics.median(a - b for a, b in zip(status, bare, strict=True)) * 1000
    return Outcome(
        "client",
        f"whisperctl daemon status takes at most {GOAL_MS:.0f} ms more than python -c pass",
        extra_ms <= GOAL_MS,
        [
            ("whisperctl daemon status", f"{status_ms:.0f} ms"),
            ("python -c pass", f"{bare_ms:.0f} ms"),
            ("difference, median of pairs", f"{extra_ms:.0f} ms"),
        ],
        {"status_ms": status_ms, "python_ms": bare_ms, "difference_ms": extra_ms},
    )
