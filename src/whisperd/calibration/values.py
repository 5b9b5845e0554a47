"""The records of calibration: settings, trials and results."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from whisperd.calibration.circumstances import Circumstances

__all__ = [
    "FULL_MARGIN_S",
    "USUAL_MARGIN_S",
    "Calibration",
    "Candidate",
    "Outcome",
    "PassedOver",
    "Setting",
    "Shape",
    "Trial",
]

USUAL_MARGIN_S: Final = 2.0
"""An engine's default margin; see `whisperd.worker.protocol.LoadParams`."""
FULL_MARGIN_S: Final = 30.0
"""Enough to give every window the full context."""

Shape = tuple[int, int]
"""The number of replicas, and of threads of each."""

Outcome = Literal["measured", "slower", "stuck", "failed", "no_memory"]
"""`slower`: stopped because it took far longer than the best. `stuck`: it did not respond at all.
`failed`: it crashed or raised an error. `no_memory`: it was not tried because it did not fit into memory."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a model."""

    variant: str
    compute_type: str
    replicas: int
    cpu_threads: int
    """Threads of each replica."""
    batch_size: int
    """Windows computed together."""
    context_margin_s: float
    """Silence after a long window; see `whisperd.worker.protocol.LoadParams`."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A variant to be tried, and the settings that make sense for it."""

    start: Setting
    """The setting used without measurements."""
    shapes: tuple[Shape, ...]
    """In ascending order of replicas."""
    batch_sizes: tuple[int, ...]
    """In ascending order, like the margins."""
    margins_s: tuple[float, ...]

    @property
    def variant(self) -> str:
        """The name of the variant."""
        return self.start.variant


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The result of trying a setting."""

    setting: Setting
    outcome: Outcome
    speeds: tuple[float, ...]
    """For each measurement: seconds of audio per second, with all replicas computing."""
    errors: int | None = None
    """The number of wrong words, out of `words`."""
    words: int | None = None
    load_s: float | None = None
    cost_s: float = 0.0
    """The duration of the trial, loading included."""
    problem: dict[str, Any] | None = None
    """Code, message and fix of the error that ended it."""

    @property
    def speed(self) -> float | None:
        """The highest measured speed; None if there is none."""
        return max(self.speeds, default=None)

    def followed_by(self, later: Trial) -> Trial:
        """Return the combined result after another trial of the same setting, which has been measured before.

        If it was too slow or found no memory this time, that counts as a measurement of speed 0, disturbed by
        other work.
        """
        if later.outcome == "failed":
            return msgspec.structs.replace(later, cost_s=self.cost_s + later.cost_s)
        return msgspec.structs.replace(
            self,
            speeds=(*self.speeds, later.speed or 0.0),
            errors=max(self.errors or 0, later.errors or 0),
            cost_s=self.cost_s + later.cost_s,
        )


class PassedOver(msgspec.Struct, frozen=True, kw_only=True):
    """A variant that was not tried, and why."""

    variant: str
    problem: dict[str, Any]
    """Code, message and fix."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The results for a model on this computer."""

    model: str
    circumstances: Circumstances
    fingerprint: str
    """That of the circumstances; the results count only while it is the same."""
    time: str
    """RFC 3339."""
    elapsed_s: float
    """Excluding interruptions by other work."""
    is_complete: bool
    """False if the time ran out before everything worthwhile was tried."""
    candidates: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    passed_over: tuple[PassedOver, ...] = ()
