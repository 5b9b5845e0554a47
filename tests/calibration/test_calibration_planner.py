"""The search for the fastest setting, on simulated computers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzzing import examples
from whisperd.calibration.planner import (
    TIMES,
    best,
    next_setting,
    reference_errors,
    striking_trial,
    with_trial,
)
from whisperd.calibration.values import FULL_MARGIN_S, Candidate, Setting, Trial

WORDS = 80
BATCH_SIZES = (1, 2, 4, 8)
MARGINS_S = (1.0, 2.0, 4.0)


@dataclass
class SimulatedVariant:
    """The speed of a variant, which is multiplied by a factor for each value that is set."""

    speed: float
    shapes: Sequence[float]
    """Factors by shape; the others are by their values."""
    batch_sizes: Sequence[float]
    margins: Sequence[float]
    errors: int = 3
    least_margin_s: float = 0.0
    """With a smaller margin there is one more wrong word."""
    breaks: Callable[[Setting], bool] = lambda _setting: False

    def true_speed(self, candidate: Candidate, setting: Setting) -> float:
        speed = self.speed * self.shapes[candidate.shapes.index((setting.replicas, setting.cpu_threads))]
        speed *= self.batch_sizes[BATCH_SIZES.index(setting.batch_size)]
        full = 0.3 * min(self.margins)
        margins = dict(zip(MARGINS_S, self.margins, strict=True))
        return speed * margins.get(setting.context_margin_s, full)

    def errors_of(self, setting: Setting) -> int:
        return self.errors + (setting.context_margin_s < self.least_margin_s)


@dataclass
class SimulatedComputer:
    variants: Mapping[str, SimulatedVariant]
    cores: int = 2
    noise: float = 0.0
    seed: int = 0
    trials: list[Trial] = field(default_factory=list)

    @property
    def candidates(self) -> list[Candidate]:
        return [candidate(name, self.cores) for name in self.variants]

    def calibrate(self, budget_s: float = 1e9) -> Trial | None:
        chance = random.Random(self.seed)
        while setting := next_setting(self.candidates, self.trials, budget_s):
            self.trials = with_trial(self.trials, self._try(setting, chance))
            assert max(len(trial.speeds) for trial in self.trials) <= TIMES
        return best(self.candidates, self.trials)

    def _try(self, setting: Setting, chance: random.Random) -> Trial:
        variant = self.variants[setting.variant]
        if variant.breaks(setting):
            return Trial(
                setting=setting, outcome="failed", speeds=(), cost_s=1.0, problem={"code": "worker.died"}
            )
        speed = self.true_speed(setting) * chance.uniform(1 - self.noise, 1)
        return Trial(
            setting=setting,
            outcome="measured",
            speeds=(speed,),
            errors=variant.errors_of(setting),
            words=WORDS,
            cost_s=0.7 + 60 / speed,
        )

    def true_speed(self, setting: Setting) -> float:
        (of_variant,) = (one for one in self.candidates if one.variant == setting.variant)
        return self.variants[setting.variant].true_speed(of_variant, setting)

    def best_of_all(self) -> float:
        """Return the true speed of the best setting."""
        allowed = reference_errors(self.candidates, self.trials)
        assert allowed is not None
        return max(
            self.true_speed(setting)
            for one in self.candidates
            for setting in every_setting(one)
            if self.variants[one.variant].errors_of(setting) <= allowed
            and not striking_trial(one.variant, self.trials)
        )


def candidate(name: str, cores: int) -> Candidate:
    shapes = tuple((replicas, cores // replicas) for replicas in range(1, cores + 1) if cores % replicas == 0)
    start = Setting(
        variant=name, compute_type="int8", replicas=cores, cpu_threads=1, batch_size=4, context_margin_s=2.0
    )
    return Candidate(start=start, shapes=shapes, batch_sizes=BATCH_SIZES, margins_s=MARGINS_S)


def every_setting(one: Candidate) -> list[Setting]:
    return [
        msgspec.structs.replace(
            one.start, replicas=shape[0], cpu_threads=shape[1], batch_size=batch_size, context_margin_s=margin
        )
        for shape in one.shapes
        for batch_size in one.batch_sizes
        for margin in (*one.margins_s, FULL_MARGIN_S)
    ]


def simulated(speed: float = 10.0, **options: object) -> SimulatedVariant:
    """Return a variant like the measured one: replicas before threads, batches of four, small margins."""
    usual = {"shapes": (0.8, 1.0), "batch_sizes": (0.8, 0.9, 1.0, 0.95), "margins": (1.1, 1.0, 0.8)}
    return SimulatedVariant(speed=speed, **{**usual, **options})  # type: ignore[arg-type]


@st.composite
def single_peaks(draw: st.DrawFn, length: int) -> list[float]:
    """Draw factors of at most 1 that rise to one peak and fall after it."""
    peak = draw(st.integers(0, length - 1))
    steps = draw(st.lists(st.floats(0.9, 1.0), min_size=length, max_size=length))
    factors = [1.0] * length
    for place in range(peak - 1, -1, -1):
        factors[place] = factors[place + 1] * steps[place]
    for place in range(peak + 1, length):
        factors[place] = factors[place - 1] * steps[place]
    return factors


@st.composite
def computers(draw: st.DrawFn) -> SimulatedComputer:
    cores = draw(st.sampled_from([1, 2, 4, 8]))
    shape_count = len(candidate("", cores).shapes)
    variants = {
        f"variant-{number}": SimulatedVariant(
            speed=draw(st.one_of(st.floats(1, 100), st.floats(10, 20))),
            shapes=draw(single_peaks(shape_count)),
            batch_sizes=draw(single_peaks(4)),
            margins=sorted(draw(st.lists(st.floats(0.85, 1), min_size=3, max_size=3)), reverse=True),
            errors=3,
            least_margin_s=draw(st.sampled_from([0.0, 0.0, 1.5, 3.0])),
        )
        for number in range(draw(st.integers(1, 5)))
    }
    return SimulatedComputer(variants, cores, noise=0.015, seed=draw(st.integers(0, 1000)))


@given(computers())
@settings(max_examples=examples(150))
def test_the_chosen_setting_is_within_five_percent_of_the_best(computer: SimulatedComputer) -> None:
    chosen = computer.calibrate()
    assert chosen is not None
    assert computer.true_speed(chosen.setting) >= 0.95 * computer.best_of_all()
    product = sum(len(every_setting(one)) for one in computer.candidates)
    assert len(computer.trials) <= max(14, product / 2)


@given(computers(), st.floats(1, 60))
def test_calibration_stays_within_its_budget(computer: SimulatedComputer, budget_s: float) -> None:
    computer.calibrate(budget_s)
    # Only a trial about which nothing was known can have been too expensive.
    dearest_s = max(trial.cost_s / max(1, len(trial.speeds)) for trial in computer.trials)
    assert sum(trial.cost_s for trial in computer.trials) - dearest_s <= budget_s


def nearly_alike() -> SimulatedComputer:
    """Return variants so similar that the noise decides: each leads for a while."""
    even: dict[str, object] = {"shapes": (1.0, 1.0), "batch_sizes": (1.0,) * 4}
    margins = [(1.0, 1.0, 1.0)] * 3 + [(1.0, 0.875, 0.875)]
    variants = {f"variant-{n}": simulated(1.0, **even, margins=one) for n, one in enumerate(margins)}
    return SimulatedComputer(variants, noise=0.015)


@given(computers(), st.sets(st.integers(0, 4)), st.sampled_from(["always", "batches of 8", "many replicas"]))
@example(
    nearly_alike(), {0, 1}, "batches of 8"
)  # the variants that might give a new reference were ruled out themselves
def test_a_variant_that_is_ruled_out_is_never_chosen(
    computer: SimulatedComputer, broken: set[int], when: str
) -> None:
    conditions: dict[str, Callable[[Setting], bool]] = {
        "always": lambda _setting: True,
        "batches of 8": lambda setting: setting.batch_size == 8,
        "many replicas": lambda setting: setting.replicas > 1,
    }
    for number in broken:
        if variant := computer.variants.get(f"variant-{number}"):
            variant.breaks = conditions[when]
    chosen = computer.calibrate()
    if chosen is None:
        assert all(striking_trial(name, computer.trials) for name in computer.variants)
        return
    assert striking_trial(chosen.setting.variant, computer.trials) is None
    assert chosen.outcome == "measured"
    after_the_fault = {}
    for trial in computer.trials:
        assert not after_the_fault.get(trial.setting.variant), "a ruled-out variant is not tried again"
        after_the_fault[trial.setting.variant] = trial.outcome == "failed"


def test_a_computer_like_the_measured_one_needs_few_trials() -> None:
    computer = SimulatedComputer({"cpu": simulated(), "slow": simulated(3)})
    chosen = computer.calibrate()
    assert chosen is not None
    assert chosen.setting == msgspec.structs.replace(computer.candidates[0].start, context_margin_s=1.0)
    assert len(computer.trials) <= 10


def test_a_much_slower_variant_is_tried_once() -> None:
    computer = SimulatedComputer({"fast": simulated(10), "slow": simulated(4)})
    computer.calibrate()
    assert sum(trial.setting.variant == "slow" for trial in computer.trials) == 1


def test_a_tie_is_decided_by_priority() -> None:
    """A tie is a difference within the noise, as repeated measurements show it."""
    picked = []
    for seed in range(20):
        alike = {"first": simulated(10), "second": simulated(10.001)}
        chosen = SimulatedComputer(alike, noise=0.01, seed=seed).calibrate()
        assert chosen is not None
        picked.append(chosen.setting.variant)
    assert picked.count("first") > 10


@pytest.mark.parametrize("second, noise", [(11, 0.03), (10.1, 0.0)])
def test_a_measured_difference_precedes_the_priority(second: float, noise: float) -> None:
    computer = SimulatedComputer({"first": simulated(10), "second": simulated(second)}, noise=noise)
    chosen = computer.calibrate()
    assert chosen is not None
    assert chosen.setting.variant == "second"


@pytest.mark.parametrize(
    ("slower", "times"), [(0.2, 1), (0.09, 2), (0.07, 3), (0.05, 4), (0.035, TIMES), (0.02, 3), (0.0, 3)]
)
def test_finalists_are_measured_until_one_leads_or_the_choice_hardly_matters(
    slower: float, times: int
) -> None:
    steep: dict[str, Any] = {
        "shapes": (0.5, 1.0),
        "batch_sizes": (0.5, 0.6, 1.0, 0.6),
        "margins": (1.0, 0.7, 0.5),
    }
    variants = {"first": simulated(10 * (1 - slower), **steep), "second": simulated(10, **steep)}
    computer = SimulatedComputer(variants)
    chosen = computer.calibrate()
    assert chosen is not None
    assert chosen.setting.variant == ("second" if slower else "first")
    finalists = [trial for trial in computer.trials if computer.true_speed(trial.setting) > 7.5]
    assert [len(trial.speeds) for trial in finalists] == [times, times]


@pytest.mark.parametrize(
    "of_variant",
    [
        {"margins": (1.1, 1.0, 0.8)},
        {"batch_sizes": (0.7, 0.8, 0.95, 1.0), "margins": (1.0, 1.0, 1.0)},
        {"batch_sizes": (0.7, 1.0, 0.95, 0.8), "margins": (1.0, 1.0, 1.0)},
        {"shapes": (1.0, 0.95), "margins": (1.0, 1.0, 1.0)},
    ],
)
def test_the_best_setting_is_found_although_its_first_measurement_was_disturbed(
    of_variant: dict[str, Any],
) -> None:
    computer = SimulatedComputer({"cpu": simulated(**of_variant)})
    undisturbed = computer.calibrate()
    assert undisturbed is not None
    computer.trials = []
    while setting := next_setting(computer.candidates, computer.trials):
        trial = computer._try(setting, random.Random(0))
        if setting == undisturbed.setting and all(one.setting != setting for one in computer.trials):
            trial = msgspec.structs.replace(trial, speeds=(0.7 * trial.speeds[0],))
        computer.trials = with_trial(computer.trials, trial)
    chosen = best(computer.candidates, computer.trials)
    assert chosen is not None
    assert chosen.setting == undisturbed.setting


def test_a_margin_that_degrades_the_text_is_not_used() -> None:
    computer = SimulatedComputer({"cpu": simulated(least_margin_s=2.0)})
    chosen = computer.calibrate()
    assert chosen is not None
    assert chosen.setting.context_margin_s == 2.0


@pytest.mark.parametrize("needed_s, taken_s", [(3.0, 4.0), (20.0, FULL_MARGIN_S)])
def test_a_variant_that_needs_more_margin_gets_it(needed_s: float, taken_s: float) -> None:
    computer = SimulatedComputer({"cpu": simulated(least_margin_s=needed_s)})
    chosen = computer.calibrate()
    assert chosen is not None
    assert chosen.setting.context_margin_s == taken_s


def test_a_variant_with_a_worse_text_is_not_used_however_fast() -> None:
    computer = SimulatedComputer({"right": simulated(5), "wrong": simulated(50, errors=4)})
    chosen = computer.calibrate()
    assert chosen is not None
    assert chosen.setting.variant == "right"


def test_a_nonsense_text_is_no_reference() -> None:
    computer = SimulatedComputer({"mad": simulated(50, errors=70), "right": simulated(5)})
    chosen = computer.calibrate()
    assert chosen is not None
    assert chosen.setting.variant == "right"
    assert reference_errors(computer.candidates, computer.trials) == 3
    assert striking_trial("mad", computer.trials) is not None


def test_if_nothing_works_nothing_is_chosen() -> None:
    computer = SimulatedComputer({"a": simulated(errors=80), "b": simulated(breaks=lambda _setting: True)})
    assert computer.calibrate() is None
    assert next_setting([], []) is None
    assert best([], []) is None
