"""The values of calibration: what can be set, what was tried, what came of it."""

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
"""What an engine takes where it is told nothing; see `whisperd.worker.protocol.LoadParams`."""
FULL_MARGIN_S: Final = 30.0
"""As much as to give every window the full context."""

Shape = tuple[int, int]
"""Replicas, and the threads of each."""

Outcome = Literal["measured", "slower", "stuck", "failed", "no_memory"]
"""`slower`: given up, since it took far longer than the best. `stuck`: it did not answer at all.
`failed`: it crashed, or refused. `no_memory`: there was no room for it, and it was not tried."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a model."""

    variant: str
    compute_type: str
    replicas: int
    cpu_threads: int
    """Of each replica."""
    batch_size: int
    """Windows computed together."""
    context_margin_s: float
    """Silence behind a long window; see `whisperd.worker.protocol.LoadParams`."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A variant that is to be tried, and the settings that make sense for it."""

    start: Setting
    """What is taken where nothing was measured."""
    shapes: tuple[Shape, ...]
    """In the order of their replicas."""
    batch_sizes: tuple[int, ...]
    """Ascending, as are the margins."""
    margins_s: tuple[float, ...]

    @property
    def variant(self) -> str:
        """Its name."""
        return self.start.variant


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a setting."""

    setting: Setting
    outcome: Outcome
    speeds: tuple[float, ...]
    """Seconds of audio for each second, with all replicas at work, of each time that it was measured."""
    errors: int | None = None
    """Words that are wrong, of `words`."""
    words: int | None = None
    load_s: float | None = None
    cost_s: float = 0.0
    """What the trial took, loading included."""
    problem: dict[str, Any] | None = None
    """Code, message and fix: why it was struck out."""

    @property
    def speed(self) -> float | None:
        """The fastest of all times; None where it was not measured."""
        return max(self.speeds, default=None)

    def followed_by(self, later: Trial) -> Trial:
        """What is known after the same setting, which was measured, was tried once more.

        That it was too slow once, or found no room, is a time in which it did not get far: somebody else
        needed the computer.
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
    """What was found for a model on this computer."""

    model: str
    fingerprint: str
    """That of the circumstances; with another one it does not count."""
    time: str
    """RFC 3339."""
    elapsed_s: float
    """Without the pauses in which jobs were done."""
    is_complete: bool
    """False where the time was up before everything worthwhile was tried."""
    candidates: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    passed_over: tuple[PassedOver, ...] = ()
    circumstances: Circumstances | None = None
    """In which it was found; None of old ones."""
