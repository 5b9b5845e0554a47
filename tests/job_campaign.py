"""What somebody does with jobs, and what is killed meanwhile. Pure: a seed and a round's number say it all.

A step names a job by its place among those that there are then, from 0 to 1, so that a plan does not depend
on what became of them.
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
"""Of the recordings: of one window, of two, of several."""


@dataclass(frozen=True)
class Submit:
    """A job is taken."""

    length_s: float
    priority: Priority
    is_detached: bool
    is_uploaded: bool


@dataclass(frozen=True)
class Cancel:
    """Jobs are cancelled, in one request."""

    places: tuple[float, ...]


@dataclass(frozen=True)
class Retry:
    """A job is tried again, if it has failed or was cancelled."""

    place: float


@dataclass(frozen=True)
class Clear:
    """The jobs that are over are forgotten."""


@dataclass(frozen=True)
class Kill:
    """A process is killed; where there are several, the one at this place."""

    victim: Victim
    place: float


Step = Submit | Cancel | Retry | Clear | Kill


@dataclass(frozen=True)
class Planned:
    """A step, and how long nothing is done before it."""

    step: Step
    pause_s: float


def plan(seed: str, round_number: int, steps: int) -> Sequence[Planned]:
    """The steps of a round. It begins with jobs; each kind of process is killed at least once."""
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
