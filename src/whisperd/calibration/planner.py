"""Which setting is tried next, and which one is best. Pure: results in, decisions out.

The search is a coordinate descent with rounds of elimination, since trying everything would take
minutes:

1. The variant with the highest priority computes the speech with the full context. Its text is the
   **reference**: no setting may have more wrong words. A variant that understands nothing is struck out
   and the next one gives the reference.
2. Every variant runs with what is usual for it. One whose text is worse gets a larger margin, up to
   the full context. Who is less than half as fast as the best is out.
3. The others try replicas against threads. Who is then out of reach of the best is out.
4. The rest try batch sizes and smaller margins.

Along each of these lines it goes on in a direction until it gets clearly slower. What is within the noise
of the best is a tie, and is decided by priority, then by what is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from whisperd.calibration.values import FULL_MARGIN_S, Candidate, Setting, Trial

__all__ = ["HOPELESS", "best", "fastest_speed", "next_setting", "reference_errors", "striking_trial"]

HOPELESS: Final = 2.0
"""This many times slower than the best, nothing that can be set makes up for it."""
OUT_OF_REACH: Final = 1.5
"""The same, once replicas and threads are set."""
CLEARLY: Final = 0.03
"""A share of speed that is no noise."""
TIE: Final = 0.02
"""A share of speed that decides nothing."""
NONSENSE: Final = 0.5
"""The share of words that are wrong where a variant does not work at all."""

_Line = TypeVar("_Line")
_Steps = Generator[Setting, None, None]
_Climb = Generator[Setting, None, Setting]


def next_setting(
    candidates: Sequence[Candidate], trials: Sequence[Trial], budget_s: float = math.inf
) -> Setting | None:
    """What to try next of candidates in the order of their priority.

    None when everything worthwhile was tried, or when it would take longer than is left of the budget.
    """
    plan = _Plan(candidates, trials)
    setting = next((setting for setting in plan.steps() if setting not in plan.results), None)
    if (
        setting is None
        or sum(trial.cost_s for trial in trials) + _expected_cost_s(setting, trials) > budget_s
    ):
        return None
    return setting


def best(
    candidates: Sequence[Candidate],
    trials: Iterable[Trial],
    allows: Callable[[Setting], bool] = lambda _setting: True,
) -> Trial | None:
    """The fastest that is allowed, of those whose text is as good as the reference; None if there is none."""
    plan = _Plan(candidates, trials)
    speeds = {setting: plan.speed(setting) for setting in plan.results if allows(setting)}
    fastest = max(speeds.values(), default=0.0)
    tied = [plan.results[setting] for setting, speed in speeds.items() if speed >= fastest * (1 - TIE) > 0]
    return min(tied, key=plan.oddness, default=None)


def fastest_speed(candidates: Sequence[Candidate], trials: Iterable[Trial]) -> float:
    """The speed of the fastest whose text is as good as the reference; 0 while there is none."""
    plan = _Plan(candidates, trials)
    return max(map(plan.speed, plan.results), default=0.0)


def reference_errors(candidates: Sequence[Candidate], trials: Iterable[Trial]) -> int | None:
    """How many words of the reference are wrong; None while there is none."""
    return _Plan(candidates, trials).reference_errors


def striking_trial(variant: str, trials: Iterable[Trial]) -> Trial | None:
    """The trial for which a variant is not to be used: it crashed, was stuck or talked nonsense."""
    return next((trial for trial in trials if trial.setting.variant == variant and _strikes(trial)), None)


class _Plan:
    """The search, as far as the results so far lead it."""

    def __init__(self, candidates: Sequence[Candidate], trials: Iterable[Trial]) -> None:
        self.results: Mapping[Setting, Trial] = {trial.setting: trial for trial in trials}
        self._struck = {trial.setting.variant for trial in self.results.values() if _strikes(trial)}
        self._candidates = {candidate.variant: candidate for candidate in candidates}
        self._order = {candidate.variant: place for place, candidate in enumerate(candidates)}

    @property
    def reference_errors(self) -> int | None:
        """Wrong words in the text with the full context, of the first variant that works."""
        for candidate in self._candidates.values():
            trial = self.results.get(_with_margin(candidate.start, FULL_MARGIN_S))
            if trial is not None and trial.outcome == "measured" and candidate.variant not in self._struck:
                return trial.errors
        return None

    def speed(self, setting: Setting) -> float:
        """How fast a setting was; 0 if it must not be chosen."""
        trial, allowed = self.results.get(setting), self.reference_errors
        if trial is None or trial.outcome != "measured" or setting.variant in self._struck:
            return 0.0
        if allowed is None or trial.errors is None or trial.errors > allowed:
            return 0.0
        return trial.speed or 0.0

    def oddness(self, trial: Trial) -> tuple[int, int, float, int]:
        """What a tie is broken by, the least first: priority, how much is unusual, margin, batch size."""
        setting, start = trial.setting, self._candidates[trial.setting.variant].start
        unusual = sum(getattr(setting, name) != getattr(start, name) for name in Setting.__struct_fields__)
        return self._order[setting.variant], unusual, -setting.context_margin_s, setting.batch_size

    def steps(self) -> _Steps:
        """Every setting that the search comes to, as far as its results are known; then one that is not."""
        yield from self._reference()
        bases = yield from self._bases()
        shaped = {}
        for variant, base in self._within(bases, HOPELESS).items():
            shaped[variant] = yield from self._climb(base, self._candidates[variant].shapes, _with_shape)
        for variant, setting in self._within(shaped, OUT_OF_REACH).items():
            candidate = self._candidates[variant]
            with_batch = yield from self._climb(setting, candidate.batch_sizes, _with_batch)
            yield from self._climb(with_batch, candidate.margins_s, _with_margin, upwards=False)

    def _reference(self) -> _Steps:
        for candidate in self._candidates.values():
            if self.reference_errors is not None:
                return
            if candidate.variant not in self._struck:
                yield _with_margin(candidate.start, FULL_MARGIN_S)

    def _bases(self) -> Generator[Setting, None, dict[str, Setting]]:
        """Each variant as it is usually run, with as much margin as its text needs."""
        bases: dict[str, Setting] = {}
        for variant, candidate in self._candidates.items():
            usual = candidate.start.context_margin_s
            for margin in (*(one for one in candidate.margins_s if one >= usual), FULL_MARGIN_S):
                if variant in self._struck:
                    break
                base = _with_margin(candidate.start, margin)
                yield base
                trial = self.results.get(base)
                if trial is None or trial.outcome != "measured":
                    break  # with more margin it is not going to be faster
                if self.speed(base) > 0:
                    bases[variant] = base
                    break
        return bases

    def _within(self, settings: Mapping[str, Setting], times: float) -> dict[str, Setting]:
        """Those that are not that many times slower than the best of them, the fastest first."""
        fastest = max(map(self.speed, settings.values()), default=0.0)
        ranked = sorted(settings.items(), key=lambda item: -self.speed(item[1]))
        return {variant: setting for variant, setting in ranked if self.speed(setting) * times >= fastest > 0}

    def _climb(
        self,
        start: Setting,
        line: Sequence[_Line],
        change: Callable[[Setting, _Line], Setting],
        *,
        upwards: bool = True,
    ) -> _Climb:
        """Go along a line of values from where the start is, each way until it gets clearly slower.

        Returns the fastest.
        """
        settings = [change(start, value) for value in line]
        if start not in settings:
            return start
        place, top = settings.index(start), start
        for direction in (settings[place + 1 :] if upwards else [], reversed(settings[:place])):
            for setting in direction:
                yield setting
                if start.variant in self._struck:
                    return start
                if self.speed(setting) < self.speed(top) * (1 - CLEARLY):
                    break
                top = max(top, setting, key=self.speed)
        return top


def _expected_cost_s(setting: Setting, trials: Sequence[Trial]) -> float:
    """As much as the last trial of its variant, or else the dearest one."""
    of_its_variant = [trial.cost_s for trial in trials if trial.setting.variant == setting.variant]
    return of_its_variant[-1] if of_its_variant else max((trial.cost_s for trial in trials), default=0.0)


def _strikes(trial: Trial) -> bool:
    if trial.outcome in ("failed", "stuck"):
        return True
    is_known = trial.errors is not None and trial.words is not None
    return is_known and (trial.errors or 0) > NONSENSE * (trial.words or 0)


def _with_shape(setting: Setting, shape: tuple[int, int]) -> Setting:
    return msgspec.structs.replace(setting, replicas=shape[0], cpu_threads=shape[1])


def _with_batch(setting: Setting, batch_size: int) -> Setting:
    return msgspec.structs.replace(setting, batch_size=batch_size)


def _with_margin(setting: Setting, margin_s: float) -> Setting:
    return msgspec.structs.replace(setting, context_margin_s=margin_s)
