"""Random plans of job requests and process kills, determined by a seed and a round number alone.

A step names a job by its relative place, from 0 to 1, among the jobs that exist at that time, so that a plan
does not depend on the fate of the jobs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from whisperd.jobs.scheduler import Priority

Victim = Literal["daemon", "worker", "decoder"]
VICTIMS: tuple[Victim, ...] = get_args(Victim)
LENGTHS_S = (3.0, 8.0, 17.0)
"""Lengths of the recordings: one window, two, and several."""


@dataclass(frozen=True)
class Submit:
    """Submit a job."""

    length_s: float
    priority: Priority
    is_detached: bool
    is_uploaded: bool


@dataclass(frozen=True)
class Cancel:
    """Cancel jobs in one request."""

    places: tuple[float, ...]


@dataclass(frozen=True)
class Retry:
    """Retry a job if it failed or was cancelled."""

    place: float


@dataclass(frozen=True)
class Clear:
    """Clear the finished jobs."""


@dataclass(frozen=True)
class Kill:
    """Kill a process; of several, the one at this place."""

    victim: Victim
    place: float


Step = Submit | Cancel | Retry | Clear | Kill


@dataclass(frozen=True)
class Planned:
    """A step and the pause before it."""

    step: Step
    pause_s: float


def plan(seed: str, round_number: int, steps: int) -> Sequence[Planned]:
    """Return the steps of a round: jobs first, then steps that kill each kind of process at least once."""
    chance = random.Random(f"{seed} {round_number}")
    chosen: list[Step] = [_step(chance) for _ in range(steps)]
    for victim, place in zip(VICTIMS, chance.sample(range(steps // 3, steps), len(VICTIMS)), strict=True):
        chosen[place] = Kill(victim, chance.random())
    first = [_submit(chance, is_detached=True) for _ in range(3)]
    return [Planned(step, chance.choice((0.0, 0.0, 0.02, 0.1, 0.3))) for step in [*first, *chosen]]


def _step(chance: random.Random) -> Step:
    kind = chance.choices((Submit, Cancel, Retry, Clear, Kill), (10, 3, 2, 1, 3))[0]
    if kind is Cancel:
        return Cancel(tuple(chance.random() for _ in range(chance.choice((1, 1, 3)))))
    if kind is Retry:
        return Retry(chance.random())
    if kind is Clear:
        return Clear()
    if kind is Kill:
        return Kill(chance.choice(VICTIMS), chance.random())
    return _submit(chance, is_detached=chance.random() < 0.7)


def _submit(chance: random.Random, *, is_detached: bool) -> Submit:
    return Submit(
        length_s=chance.choice(LENGTHS_S),
        priority=chance.choice(("interactive", "normal", "bulk")),
        is_detached=is_detached,
        is_uploaded=chance.random() < 0.2,
    )
