"""Decides which setting to try next, and which one is best. Pure: trials in, decisions out.

The search is a coordinate descent with rounds of elimination, since trying everything would take
minutes:

1. The variant with the highest priority transcribes the speech with the full context. Its text is the
   **reference**: no setting may have more wrong words. A variant that produces nonsense is struck out, and
   the next one provides the reference.
2. Every variant runs with its usual setting. One whose text is worse gets a larger margin, up to the full
   context. Variants far slower than the best are eliminated.
3. The others trade replicas against threads. Variants then out of reach of the best are eliminated.
4. The rest try batch sizes and smaller margins.
5. The neighbours of the fastest setting are measured again, or for the first time: one measurement disturbed
   by other work must not end the search. It continues from any neighbour that turns out to be faster.
6. The **finals**: the fastest settings are measured again in alternating order (A, B, C, C, B, A, ...), so
   that a computer that slows down does so for all of them. After each round the clearly slower ones are
   eliminated, as in successive halving (Jamieson and Talwalkar, 2016). Other load can only slow a setting
   down, so the fastest of its measurements counts, and all have the same number of them.

Along each dimension the search continues in a direction until it gets clearly slower. Settings within the
noise of the best, as measured in their own rounds, are tied; priority decides, then what is usual.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Final, TypeVar

import msgspec

from whisperd.calibration.values import FULL_MARGIN_S, Candidate, Setting, Trial

__all__ = [
    "HOPELESS",
    "best",
    "fastest_speed",
    "is_searched",
    "next_setting",
    "reference_errors",
    "striking_trial",
    "with_trial",
]

HOPELESS: Final = 1.7
"""A variant this many times slower than the best cannot catch up by any setting."""
OUT_OF_REACH: Final = 1.25
"""The same, once replicas and threads are chosen."""
CLEARLY: Final = 0.05
"""The relative difference in speed that exceeds the noise of single measurements."""
TIE: Final = 0.01
"""The relative difference in speed that counts as a tie, unless the noise is known to be smaller."""
DISTURBED: Final = 0.65
"""A single measurement may show as little as this fraction of a setting's true speed."""
FINALISTS: Final = 3
OUT_OF_FINALS: Final = 0.15
"""Settings slower than the best by more than this do not enter the finals."""
OUT: Final = {2: 0.08, 3: 0.06}
"""By the number of measurements: finalists slower than the best by more than this are eliminated."""
OUT_AT_LAST: Final = 0.04
TIMES: Final = 6
"""The most measurements of a finalist."""
SETTLED: Final = 0.03
"""After three measurements each, the finals end if the slowest is within this of the best: any will do."""
NONSENSE: Final = 0.5
"""A variant with a larger share of wrong words does not work at all."""

_Line = TypeVar("_Line")
_Steps = Generator[Setting, None, None]
_Climb = Generator[Setting, None, Setting]


def next_setting(
    candidates: Sequence[Candidate], trials: Sequence[Trial], budget_s: float = math.inf
) -> Setting | None:
    """Return the next setting to try; `candidates` are in order of priority.

    Finalists are returned several times. None once everything worthwhile was tried, or if the next trial
    would exceed the budget.
    """
    plan = _Plan(candidates, trials)
    setting = plan.next_of_search() or plan.next_of_finals()
    if (
        setting is None
        or sum(trial.cost_s for trial in trials) + _expected_cost_s(setting, trials) > budget_s
    ):
        return None
    return setting


def with_trial(trials: Sequence[Trial], trial: Trial) -> list[Trial]:
    """Add a trial; if its setting was tried before, merge it with the earlier trial."""
    if all(one.setting != trial.setting for one in trials):
        return [*trials, trial]
    return [one.followed_by(trial) if one.setting == trial.setting else one for one in trials]


def best(
    candidates: Sequence[Candidate],
    trials: Iterable[Trial],
    allows: Callable[[Setting], bool] = lambda _setting: True,
) -> Trial | None:
    """Return the fastest allowed trial whose text is as good as the reference; None if there is none."""
    plan = _Plan(candidates, trials)
    finalists, times = plan.finals()
    allowed = [setting for setting in finalists if allows(setting)]
    noise = plan.noise(allowed, times) if allowed else TIE
    speeds = {setting: plan.speed(setting, times) for setting in allowed} or {
        setting: plan.speed(setting) for setting in plan.results if allows(setting)
    }
    fastest = max(speeds.values(), default=0.0)
    tied = [plan.results[setting] for setting, speed in speeds.items() if speed >= fastest * (1 - noise) > 0]
    return min(tied, key=plan.tie_break_key, default=None)


def is_searched(candidates: Sequence[Candidate], trials: Sequence[Trial]) -> bool:
    """Whether everything worthwhile was tried, even if the finals are not over."""
    return _Plan(candidates, trials).next_of_search() is None


def fastest_speed(candidates: Sequence[Candidate], trials: Iterable[Trial]) -> float:
    """Return the speed of the fastest setting whose text is as good as the reference; 0 if there is none."""
    plan = _Plan(candidates, trials)
    return max(map(plan.speed, plan.results), default=0.0)


def reference_errors(candidates: Sequence[Candidate], trials: Iterable[Trial]) -> int | None:
    """Return the number of wrong words in the reference; None if there is no reference yet."""
    return _Plan(candidates, trials).reference_errors


def striking_trial(variant: str, trials: Iterable[Trial]) -> Trial | None:
    """Return the trial because of which a variant is struck out: a crash, a hang or nonsense."""
    return next((trial for trial in trials if trial.setting.variant == variant and _strikes(trial)), None)


class _Plan:
    """The search, replayed with the results so far."""

    def __init__(self, candidates: Sequence[Candidate], trials: Iterable[Trial]) -> None:
        self.results: Mapping[Setting, Trial] = {trial.setting: trial for trial in trials}
        self._struck = {trial.setting.variant for trial in self.results.values() if _strikes(trial)}
        self._candidates = {candidate.variant: candidate for candidate in candidates}
        self._order = {candidate.variant: place for place, candidate in enumerate(candidates)}

    @cached_property
    def reference_errors(self) -> int | None:
        """The wrong words in the full-context text of the first variant that works."""
        for candidate in self._candidates.values():
            trial = self.results.get(_with_margin(candidate.start, FULL_MARGIN_S))
            if trial is not None and trial.outcome == "measured" and candidate.variant not in self._struck:
                return trial.errors
        return None

    def next_of_search(self) -> Setting | None:
        """Return the first setting of the search that was not measured often enough."""
        untried = next((setting for setting in self.steps() if setting not in self.results), None)
        return untried or next(self._remeasurements(), None)

    def _remeasurements(self) -> _Steps:
        """Yield the neighbours of the fastest setting that might be as fast, the most promising first."""
        fastest = max(self.results, key=self.speed, default=None)
        if fastest is None or not self.speed(fastest):
            return
        for setting in sorted(self._neighbours(fastest), key=lambda one: -self.speed(one)):
            trial = self.results.get(setting)
            is_close = self.speed(setting) >= DISTURBED * self.speed(fastest)
            if trial is None or (is_close and len(trial.speeds) == 1):
                yield setting

    def _neighbours(self, setting: Setting) -> Iterator[Setting]:
        """Yield the settings that are one step away along one dimension."""
        candidate = self._candidates[setting.variant]
        lines: tuple[list[Setting], ...] = (
            [_with_shape(setting, shape) for shape in candidate.shapes],
            [_with_batch(setting, size) for size in candidate.batch_sizes],
            [_with_margin(setting, margin_s) for margin_s in candidate.margins_s],
        )
        for line in lines:
            place = line.index(setting) if setting in line else len(line)
            yield from line[max(0, place - 1) : place]
            yield from line[place + 1 : place + 2]

    def next_of_finals(self) -> Setting | None:
        """Return the setting whose turn it is in the first incomplete round."""
        finalists, times = self.finals()
        if len(finalists) < 2 or times == TIMES:
            return None
        turns = finalists if times % 2 == 0 else finalists[::-1]
        return next(setting for setting in turns if len(self.results[setting].speeds) <= times)

    def finals(self) -> tuple[list[Setting], int]:
        """Return the settings still in the finals, and how often all of them were measured."""
        ranked = sorted(filter(self.speed, self.results), key=lambda setting: -self.speed(setting))
        if not ranked:
            return [], TIMES
        least = self.speed(ranked[0]) * (1 - OUT_OF_FINALS)
        left = [setting for setting in ranked[:FINALISTS] if self.speed(setting) >= least]
        for times in range(1, TIMES):
            if any(len(self.results[setting].speeds) <= times for setting in left):
                return left, times
            speeds = {setting: self.speed(setting, times + 1) for setting in left}
            least = max(speeds.values()) * (1 - OUT.get(times + 1, OUT_AT_LAST))
            left = [setting for setting in left if speeds[setting] >= least]
            if times >= 2 and min(speeds[one] for one in left) >= (1 - SETTLED) * max(speeds.values()):
                break
        return left, TIMES

    def noise(self, finalists: Sequence[Setting], times: int) -> float:
        """Return the median relative difference between the two fastest measurements of each finalist."""
        if times < 3:
            return TIE
        fastest = [sorted(self.results[one].speeds[:times])[-2:] for one in finalists]
        return min(TIE, statistics.median(1 - second / first for second, first in fastest))

    def speed(self, setting: Setting, times: int | None = None) -> float:
        """Return a setting's best speed in its first `times` measurements (or all); 0 if not eligible."""
        trial, allowed = self.results.get(setting), self.reference_errors
        if trial is None or trial.outcome != "measured" or setting.variant in self._struck:
            return 0.0
        if allowed is None or trial.errors is None or trial.errors > allowed:
            return 0.0
        return max(trial.speeds[:times], default=0.0)

    def tie_break_key(self, trial: Trial) -> tuple[int, int, float, int]:
        """Return the key that breaks ties: priority, number of unusual values, larger margin, batch size."""
        setting, start = trial.setting, self._candidates[trial.setting.variant].start
        unusual = sum(getattr(setting, name) != getattr(start, name) for name in Setting.__struct_fields__)
        return self._order[setting.variant], unusual, -setting.context_margin_s, setting.batch_size

    def steps(self) -> _Steps:
        """Yield the settings of the search in order, up to the first one without a result."""
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
        """Find the base setting of each variant: its usual one, with as much margin as its text needs."""
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
                    break  # more margin will not make it faster
                if self.speed(base) > 0:
                    bases[variant] = base
                    break
        return bases

    def _within(self, settings: Mapping[str, Setting], times: float) -> dict[str, Setting]:
        """Return the settings at most `times` times slower than the best of them, the fastest first."""
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
        """Vary one value in both directions from the start, each until it gets clearly slower.

        Returns the fastest setting. Without `upwards`, only smaller values are tried.
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
    """Estimate a trial's cost: that of the same setting, of its variant's last trial, or else the highest."""
    costs = [(trial.setting, trial.cost_s / max(1, len(trial.speeds))) for trial in trials]
    its_own = [cost_s for one, cost_s in costs if one == setting]
    of_its_variant = [cost_s for one, cost_s in costs if one.variant == setting.variant]
    known = its_own or of_its_variant[-1:]
    return known[0] if known else max((cost_s for _, cost_s in costs), default=0.0)


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
