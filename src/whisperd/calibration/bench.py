"""Measures settings in a separate worker process, which may crash, hang or produce nonsense."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from whisperd.calibration.planner import HOPELESS
from whisperd.calibration.values import Outcome, Setting, Trial
from whisperd.calibration.workload import Portion, audio_s, clips, count_words, portions, wrong_words
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import samples
from whisperd.tasks import open_task_group
from whisperd.worker.process import Worker, WorkerDied
from whisperd.worker.protocol import DecodeOptions, WindowResult

__all__ = ["Bench", "Limits", "OutOfTime"]

LATE_S: Final = 0.5
"""How much time transient disturbances may cost before a setting counts as hopeless."""
SHORT_PASS_S: Final = 0.5
"""A shorter pass over the speech is repeated: the fastest counts."""


class OutOfTime(Exception):
    """The budget ran out in the middle of a trial, which therefore has no result."""


@dataclass(frozen=True)
class Limits:
    """How long a trial may take."""

    left_s: float
    """The rest of the budget."""
    patience_s: float
    """The limit for a first answer while there is no speed to compare with."""
    fastest: float
    """The best speed so far; 0 if there is none."""


class Bench:
    """Measures settings on one loaded worker."""

    def __init__(
        self, worker: Worker, options: DecodeOptions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._worker = worker
        self._options = options
        self._clock = clock
        self.is_spent = False
        """Whether the worker must not be used again, because it may be dead or still computing."""
        self._is_warm = False

    async def measure(self, setting: Setting, limits: Limits) -> Trial:
        """Transcribe the shipped speech with a setting, several times if that is very quick.

        A worker's first batch takes longer and is not measured. While there is no speed to compare with, only
        the text counts, and each recording is transcribed once.

        Raises what `Worker.transcribe` raises, and `OutOfTime`.
        """
        work = portions(setting, samples(), once=not limits.fastest)
        limit_s = _limit_s(audio_s(work), limits)
        elapsed_s: list[float] = []
        results: dict[int, Sequence[WindowResult]] = {}
        has_answered, errors = False, 0
        with anyio.move_on_after(limits.left_s) as budget:
            if limits.fastest and not self._is_warm:
                clip = clips(samples())[0]
                await self._timed([clip] * setting.replicas, setting.replicas, results, limits, limit_s)
                has_answered = bool(results)
            while not self.is_spent and len(elapsed_s) < _passes(elapsed_s):
                results = {}
                took_s = await self._timed(work, setting.replicas, results, limits, limit_s)
                has_answered |= bool(results)
                if took_s is not None:
                    elapsed_s.append(took_s)
                    errors = max(errors, wrong_words([(work[place], results[place]) for place in results]))
        if budget.cancelled_caught:
            raise OutOfTime
        if not elapsed_s:
            return _too_slow(setting, limit_s, has_answered=has_answered)
        return Trial(
            setting=setting,
            outcome="measured",
            speeds=(audio_s(work) / min(elapsed_s),),
            errors=errors,
            words=count_words(work),
        )

    async def _timed(
        self,
        work: Sequence[Portion],
        replicas: int,
        results: dict[int, Sequence[WindowResult]],
        limits: Limits,
        limit_s: float,
    ) -> float | None:
        """Return how many seconds a pass took; None if it was aborted, with the worker still computing it."""
        began_s = self._clock()
        with anyio.move_on_after(limit_s) as patience:
            await self._compute(work, replicas, results, limits, patience)
        self._is_warm, self.is_spent = True, patience.cancelled_caught
        return None if self.is_spent else self._clock() - began_s

    async def _compute(
        self,
        work: Sequence[Portion],
        replicas: int,
        results: dict[int, Sequence[WindowResult]],
        limits: Limits,
        patience: anyio.CancelScope,
    ) -> None:
        """Make one pass: each replica takes the next batch as soon as it is free. The first error ends it."""
        places = iter(range(len(work)))
        errors: list[Exception] = []

        async def replica() -> None:
            for place in places:
                try:
                    results[place] = await self._worker.transcribe(work[place].batch(self._options))
                except (WhisperdError, WorkerDied) as error:
                    errors.append(error)
                    tasks.cancel_scope.cancel()
                if not limits.fastest:  # the worker answers, and there is no speed to compare with
                    patience.deadline = math.inf

        async with open_task_group() as tasks:
            for _ in range(replicas):
                tasks.start_soon(replica)
        if errors:
            raise errors[0]


def _limit_s(seconds: float, limits: Limits) -> float:
    if not limits.fastest:
        return limits.patience_s
    return seconds * HOPELESS / limits.fastest + LATE_S


def _passes(elapsed_s: Sequence[float]) -> int:
    """Return how many passes are worthwhile, given those made so far."""
    return 3 if elapsed_s and min(elapsed_s) < SHORT_PASS_S else 1


def _too_slow(setting: Setting, limit_s: float, *, has_answered: bool) -> Trial:
    if has_answered:
        reason = f"It was stopped after {limit_s:.1f} s, because other settings are far faster."
    else:
        reason = f"It did not respond within {limit_s:.1f} s."
    problem = WhisperdError(
        "calibration.slower" if has_answered else "calibration.stuck",
        reason,
        "If the computer was busy, calibrate again: `whisperctl calibrate`.",
    )
    outcome: Outcome = "slower" if has_answered else "stuck"
    return Trial(setting=setting, outcome=outcome, speeds=(), problem=problem.to_wire())
