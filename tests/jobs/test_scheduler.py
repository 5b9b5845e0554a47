"""The window scheduler: each rule separately, then all of them on thousands of generated loads."""

from __future__ import annotations

import heapq
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import examples
from whisperd.jobs.batching import LEAD_LIMIT_S, MAX_LENGTH_RATIO, Parcel, Past
from whisperd.jobs.scheduler import PRIORITIES, STARVATION_S, Batch, Priority, WindowScheduler
from whisperd.worker.protocol import SAMPLE_RATE, DecodeOptions, EngineWindow
from whisperd.worker.rules import common_context_frames

ENGLISH, GERMAN = DecodeOptions(language="en"), DecodeOptions(language="de")
_SILENCE = memoryview(bytes(2 * SAMPLE_RATE * 30))


def parcel(
    job: str, index: int, *, s: float = 10.0, windows: int = 1, options: DecodeOptions = ENGLISH
) -> Parcel:
    pcm = _SILENCE[: 2 * round(s * SAMPLE_RATE)]  # a view, so that ten thousand windows cost nothing
    window = EngineWindow(pcm=pcm)  # type: ignore[arg-type]
    return Parcel(job, tuple(range(index, index + windows)), (window,) * windows, options)


@pytest.fixture(autouse=True)
def window_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineWindow, "duration_s", property(lambda self: len(self.pcm) / 2 / SAMPLE_RATE))


def scheduler_with(
    *jobs: tuple[str, Priority],
    batch_size: int = 4,
    replicas: int = 1,
    overtakes: bool = False,
    context_of: Callable[[float], int] | None = None,
) -> WindowScheduler:
    scheduler = WindowScheduler(
        batch_size=batch_size, replicas=replicas, overtakes=overtakes, context_of=context_of
    )
    for job, priority in jobs:
        scheduler.add_job(job, priority)
    return scheduler


def is_idle(scheduler: WindowScheduler) -> bool:
    return not (scheduler.waiting or scheduler._running)


def equal_context(length_s: float) -> int:
    return common_context_frames(length_s)


def content(batch: Batch | None) -> list[tuple[str, int]]:
    return [(one.job, one.indexes[0]) for one in batch.parcels] if batch else []


def run_one(scheduler: WindowScheduler, now_s: float = 0.0) -> list[tuple[str, int]]:
    batch = scheduler.next_batch(now_s)
    if batch is not None:
        scheduler.done(batch)
    return content(batch)


# Rules


def test_without_windows_there_is_no_batch() -> None:
    scheduler = scheduler_with(("a", "normal"))
    assert scheduler.next_batch(0) is None
    assert is_idle(scheduler)


def test_no_more_batches_run_than_there_are_replicas() -> None:
    scheduler = scheduler_with(("a", "normal"), batch_size=1, replicas=2)
    for index in range(3):
        scheduler.add(parcel("a", index), 0)
    first = scheduler.next_batch(0)
    assert first is not None
    assert scheduler.next_batch(0) is not None
    assert scheduler.next_batch(0) is None
    scheduler.done(first)
    assert content(scheduler.next_batch(0)) == [("a", 2)]


def test_a_higher_priority_overtakes_running_batches() -> None:
    jobs: tuple[tuple[str, Priority], ...] = (("low", "bulk"), ("a", "normal"), ("high", "interactive"))
    scheduler = scheduler_with(*jobs, batch_size=1, replicas=2, overtakes=True)
    for index in range(4):
        scheduler.add(parcel("low", index), 0)
    low = [scheduler.next_batch(0), scheduler.next_batch(0)]
    assert scheduler.next_batch(0) is None, "no priority overtakes itself"
    scheduler.add(parcel("a", 0), 1)
    scheduler.add(parcel("a", 1), 1)
    assert content(scheduler.next_batch(1)) == [("a", 0)]
    scheduler.add(parcel("high", 0), 2)
    assert scheduler.next_batch(2) is None, "only one batch may overtake at a time"
    assert low[0] is not None and low[1] is not None
    scheduler.done(low[0])
    assert content(scheduler.next_batch(3)) == [("high", 0)]
    scheduler.done(low[1])
    assert scheduler.next_batch(3) is None, "both replicas run batches of a higher priority"


def test_nothing_overtakes_if_the_engine_does_not_support_it() -> None:
    scheduler = scheduler_with(("low", "bulk"), ("a", "normal"))
    scheduler.add(parcel("low", 0), 0)
    assert scheduler.next_batch(0) is not None
    scheduler.add(parcel("a", 0), 0)
    assert scheduler.next_batch(0) is None


def test_a_batch_holds_windows_of_several_jobs() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"))
    for index in range(3):
        scheduler.add(parcel("a", index), 0)
        scheduler.add(parcel("b", index), 0)
    assert run_one(scheduler) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_different_options_or_lengths_do_not_share_a_batch() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), ("c", "normal"))
    scheduler.add(parcel("a", 0), 0)
    scheduler.add(parcel("b", 0, options=GERMAN), 0)
    scheduler.add(parcel("c", 0, s=10 * MAX_LENGTH_RATIO + 1), 0)
    assert [run_one(scheduler) for _ in range(3)] == [[("a", 0)], [("b", 0)], [("c", 0)]]


def test_with_equal_contexts_required_no_batch_mixes_them() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=8, context_of=equal_context)
    same_s, other_s = (10.5, 11.9, 11.0), (12.1, 13.0)
    assert {equal_context(one_s) for one_s in same_s} == {1400}
    for index, length_s in enumerate((*same_s, *other_s)):
        scheduler.add(parcel("a", index, s=length_s), 0)
    scheduler.add(parcel("b", 0, s=11.5), 0)
    assert run_one(scheduler) == [("a", 0), ("b", 0), ("a", 2), ("a", 1)]
    assert run_one(scheduler) == [("a", 3), ("a", 4)]


def test_all_windows_of_a_batch_have_similar_lengths() -> None:
    scheduler = scheduler_with(("a", "normal"), batch_size=8)
    for index, length_s in enumerate((12.0, 8.5, 17.0)):  # each of the others is similar to the first
        scheduler.add(parcel("a", index, s=length_s), 0)
    assert run_one(scheduler) == [("a", 0), ("a", 1)]
    assert run_one(scheduler) == [("a", 2)]


def test_the_last_windows_are_divided_among_the_replicas() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=8, replicas=2)
    for index in range(4):
        scheduler.add(parcel("a", index), 0)
    scheduler.complete("a")
    scheduler.complete("b")
    sizes = []
    while batch := scheduler.next_batch(0):
        sizes.append(len(batch.parcels))
        if len(sizes) % 2 == 0:
            scheduler.done(batch)
    assert sizes == [2, 1, 1]


@pytest.mark.parametrize(("is_ending", "first"), [(True, "b"), (False, "a")])
def test_of_the_last_windows_the_longest_starts_first(is_ending: bool, first: str) -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=1, replicas=2)
    scheduler.add(parcel("a", 0, s=5.0), 0)
    scheduler.add(parcel("b", 0, s=26.0), 0)
    scheduler.complete("b")
    if is_ending:
        scheduler.complete("a")
    assert run_one(scheduler) == [(first, 0)]


def test_batches_are_full_while_more_windows_are_expected() -> None:
    jobs: tuple[tuple[str, Priority], ...] = (("a", "normal"), ("b", "normal"), ("other", "bulk"))
    scheduler = scheduler_with(*jobs, batch_size=4, replicas=2)
    for index in range(4):
        scheduler.add(parcel("a", index), 0)
    scheduler.complete("a")
    assert len(run_one(scheduler)) == 4
    scheduler.remove_job("b")
    for index in range(4):
        scheduler.add(parcel("a", index), 0)
    assert len(run_one(scheduler)) == 2


@pytest.mark.parametrize(("length_s", "enough"), [(2.0, 8), (15.0, 6), (30.0, 3)])
def test_has_enough_reports_a_sufficient_backlog(length_s: float, enough: int) -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=4, replicas=2)
    for index in range(enough):
        assert not scheduler.has_enough("normal")
        scheduler.add(parcel("ab"[index % 2], index, s=length_s), 0)
    assert scheduler.has_enough("normal")
    assert not scheduler.has_enough("bulk")
    scheduler.remove_job("b")
    assert not scheduler.has_enough("normal")
    for index in range(enough):
        scheduler.add(parcel("a", enough + index, s=length_s), 0)
    assert scheduler.has_enough("normal")
    while run_one(scheduler):
        pass
    assert not scheduler.has_enough("normal")


def test_with_equal_contexts_required_a_backlog_has_to_be_larger() -> None:
    scheduler = scheduler_with(("a", "normal"), batch_size=4, replicas=2, context_of=equal_context)
    for index in range(8):
        scheduler.add(parcel("a", index, s=2.0 + index), 0)
    assert not scheduler.has_enough("normal")
    for index in range(8, 13):
        scheduler.add(parcel("a", index), 0)
    assert scheduler.has_enough("normal"), "ninety seconds are waiting"


def test_a_vote_is_not_split_between_batches() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"))
    scheduler.add(parcel("a", 0), 0)
    scheduler.add(parcel("a", 1), 0)
    scheduler.add(parcel("b", 0, windows=3), 0)
    assert [run_one(scheduler) for _ in range(2)] == [[("a", 0), ("b", 0)], [("a", 1)]]


def test_a_vote_larger_than_a_batch_runs_alone() -> None:
    scheduler = scheduler_with(("a", "normal"), batch_size=2)
    scheduler.add(parcel("a", 0, windows=3), 0)
    scheduler.add(parcel("a", 3), 0)
    assert [run_one(scheduler) for _ in range(2)] == [[("a", 0)], [("a", 3)]]


def test_the_windows_of_a_batch_are_grouped_by_parcel() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"))
    scheduler.add(parcel("a", 0, windows=2), 0)
    scheduler.add(parcel("b", 0), 0)
    batch = scheduler.next_batch(0)
    assert batch is not None
    assert [window.group for window in batch.windows] == [0, 0, 1]


def test_a_higher_priority_runs_first_and_shares_no_batch() -> None:
    scheduler = scheduler_with(("file", "bulk"), ("clip", "interactive"), ("note", "normal"))
    for job in ("file", "note", "clip"):
        scheduler.add(parcel(job, 0), 0)
    assert [run_one(scheduler) for _ in range(3)] == [[("clip", 0)], [("note", 0)], [("file", 0)]]


def test_a_starved_priority_gets_one_batch() -> None:
    scheduler = scheduler_with(("file", "bulk"), ("clip", "interactive"), batch_size=1)
    begun_s = 1000.0
    for index in range(4):
        scheduler.add(parcel("file", index), begun_s)
        scheduler.add(parcel("clip", index), begun_s)
    assert run_one(scheduler, begun_s + 1) == [("clip", 0)]
    assert run_one(scheduler, begun_s + STARVATION_S) == [("clip", 1)]
    assert run_one(scheduler, begun_s + STARVATION_S + 1) == [("file", 0)]
    assert run_one(scheduler, begun_s + STARVATION_S + 2) == [("clip", 2)]


def test_of_two_starved_priorities_the_one_that_has_waited_longer_goes_first() -> None:
    scheduler = scheduler_with(("file", "bulk"), ("talk", "normal"))
    scheduler.add(parcel("file", 0), 0)
    scheduler.add(parcel("talk", 0), 1)
    assert run_one(scheduler, 2 * STARVATION_S) == [("file", 0)]


def test_a_priority_without_work_does_not_starve() -> None:
    scheduler = scheduler_with(("file", "bulk"), ("clip", "interactive"), batch_size=1)
    scheduler.add(parcel("clip", 0), 0)
    scheduler.add(parcel("clip", 1), 0)
    scheduler.add(parcel("file", 0), 100)
    assert run_one(scheduler, 101) == [("clip", 0)]


def test_a_late_job_shares_equally_with_earlier_ones() -> None:
    scheduler = scheduler_with(("early", "normal"), batch_size=1)
    for index in range(20):
        scheduler.add(parcel("early", index), 0)
    for _ in range(10):
        run_one(scheduler)
    scheduler.add_job("late", "normal")
    for index in range(10):
        scheduler.add(parcel("late", index), 0)
    turns = Counter(run_one(scheduler)[0][0] for _ in range(10))
    assert turns == {"early": 5, "late": 5}


def test_a_late_job_shares_equally_with_one_that_ran_alone() -> None:
    scheduler = scheduler_with(("early", "normal"), batch_size=8)
    for index in range(24):
        scheduler.add(parcel("early", index), 0)
    run_one(scheduler)
    scheduler.add_job("late", "normal")
    for index in range(24):
        scheduler.add(parcel("late", index), 0)
    turns = Counter(job for _ in range(4) for job, _ in run_one(scheduler))
    assert turns == {"early": 16, "late": 16}


def test_a_stalled_job_catches_up_only_to_a_limit() -> None:
    scheduler = scheduler_with(("slow", "normal"), ("fast", "normal"), batch_size=1)
    for index in range(100):
        scheduler.add(parcel("fast", index), 0)
    for _ in range(50):  # the source of the slow job stalls
        run_one(scheduler)
    for index in range(50):
        scheduler.add(parcel("slow", index), 0)
    turns = Counter(run_one(scheduler)[0][0] for _ in range(30))
    assert (turns["slow"] - turns["fast"]) * 10 == LEAD_LIMIT_S


def test_filling_the_batches_of_other_jobs_is_limited() -> None:
    """A job that shares the batches of a sparse one must not outrun a job that can share none."""
    scheduler = scheduler_with(("thin", "normal"), ("fits", "normal"), ("lonely", "normal"))
    index = count()
    served: Counter[str] = Counter()
    for position in range(2000):
        scheduler.add(parcel("fits", position), 0)
        scheduler.add(parcel("lonely", position, options=GERMAN), 0)
    for _ in range(200):
        scheduler.add(parcel("thin", next(index)), 0)  # never more than one waits
        served.update(job for job, _ in run_one(scheduler))
    assert abs(served["fits"] - served["lonely"]) * 10 <= LEAD_LIMIT_S + 4 * 10


def test_a_removed_job_leaves_no_windows() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"))
    scheduler.add(parcel("a", 0), 0)
    scheduler.add(parcel("b", 0), 0)
    scheduler.remove_job("a")
    scheduler.remove_job("a")
    assert run_one(scheduler) == [("b", 0)]
    assert is_idle(scheduler)


def test_running_windows_of_a_removed_job_become_unwanted() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=3, replicas=2)
    for job, index in (("a", 0), ("b", 0), ("a", 1), ("a", 2)):
        scheduler.add(parcel(job, index), 0)
    first, second = scheduler.next_batch(0), scheduler.next_batch(0)
    assert first is not None and second is not None
    assert len(first.wanted + second.wanted) == 4
    scheduler.remove_job("a")
    assert [one.job for one in first.wanted + second.wanted] == ["b"]


def test_windows_of_a_dead_worker_are_retried_one_at_a_time() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=2, replicas=2)
    for index in range(4):
        scheduler.add(parcel("a", index), 0)
    first, second = scheduler.next_batch(0), scheduler.next_batch(0)
    assert first is not None and second is not None
    scheduler.add(parcel("b", 0), 0)
    assert scheduler.worker_died(first) == []
    assert scheduler.next_batch(0) is None, "nothing runs next to a batch that is not known to be dead yet"
    assert scheduler.worker_died(second) == []
    for index in range(4):
        batch = scheduler.next_batch(0)
        assert content(batch) == [("a", index)]
        assert scheduler.next_batch(0) is None, "nothing runs next to a retry"
        assert batch is not None
        scheduler.done(batch)
    assert run_one(scheduler) == [("b", 0)]
    assert is_idle(scheduler)


@pytest.mark.parametrize(
    ("past", "sizes"),
    [
        (Past(0), [8, 8, 8, 8, 8]),
        (Past(1), [4, 4, 5, 5, 6, 7, 7, 2]),
        (Past(2), [2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5]),
        (Past(9), [*[1] * 8, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 2]),
        (Past(9, windows_before=6), [2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5]),
        (Past(9, windows_before=100), [4, 4, 5, 5, 6, 7, 7, 2]),
    ],
)
def test_interrupted_jobs_get_smaller_batches_for_a_while(past: Past, sizes: list[int]) -> None:
    scheduler = scheduler_with(batch_size=8)
    scheduler.add_job("a", "normal", past)
    for index in range(40):
        scheduler.add(parcel("a", index), 0)
    assert [len(run_one(scheduler)) for _ in sizes] == sizes
    assert is_idle(scheduler)


def test_a_batch_with_windows_of_an_interrupted_job_is_small() -> None:
    scheduler = scheduler_with(("whole", "normal"), batch_size=8)
    scheduler.add_job("often", "normal", Past(2))
    for index in range(3):
        scheduler.add(parcel("whole", index), 0)
        scheduler.add(parcel("often", index), 0)
    for index in range(3):
        assert sorted(run_one(scheduler)) == [("often", index), ("whole", index)]


def test_a_dead_worker_counts_as_one_interruption_for_all_its_batches() -> None:
    scheduler = scheduler_with(("a", "normal"), batch_size=8, replicas=2)
    for index in range(24):
        scheduler.add(parcel("a", index), 0)
    batches = [scheduler.next_batch(0), scheduler.next_batch(0)]
    for batch in batches:
        assert batch is not None and scheduler.worker_died(batch) == []
    assert [len(run_one(scheduler)) for _ in range(16)] == [1] * 16
    assert len(run_one(scheduler)) == 6, "half the usual size plus the growth over sixteen windows"


def test_a_dead_worker_shrinks_batches_whatever_progress_an_earlier_daemon_made() -> None:
    """A large batch may need more memory than there is."""
    scheduler = scheduler_with(batch_size=8)
    scheduler.add_job("a", "normal", Past(1, windows_before=100))
    for index in range(24):
        scheduler.add(parcel("a", index), 0)
    batch = scheduler.next_batch(0)
    assert batch is not None and len(batch.parcels) == 4
    assert scheduler.worker_died(batch) == []
    assert [len(run_one(scheduler)) for _ in range(4)] == [1] * 4
    assert len(run_one(scheduler)) == 2, "a quarter of the usual size"


def test_a_window_is_given_up_after_the_second_worker_death() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=2)
    scheduler.add(parcel("a", 0), 0)
    scheduler.add(parcel("b", 0), 0)
    batch = scheduler.next_batch(0)
    assert batch is not None and scheduler.worker_died(batch) == []
    batch = scheduler.next_batch(0)
    assert batch is not None
    assert [one.job for one in scheduler.worker_died(batch)] == ["a"]
    assert run_one(scheduler) == [("b", 0)]
    assert is_idle(scheduler)


def test_windows_of_a_removed_job_are_not_retried() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=2)
    scheduler.add(parcel("a", 0), 0)
    scheduler.add(parcel("b", 0), 0)
    batch = scheduler.next_batch(0)
    scheduler.remove_job("a")
    assert batch is not None and scheduler.worker_died(batch) == []
    scheduler.remove_job("b")
    assert scheduler.next_batch(0) is None
    assert is_idle(scheduler)


def test_the_windows_of_a_refused_batch_are_retried_separately() -> None:
    scheduler = scheduler_with(("a", "normal"), ("b", "normal"), batch_size=2)
    scheduler.add(parcel("a", 0), 0)
    scheduler.add(parcel("b", 0), 0)
    batch = scheduler.next_batch(0)
    assert batch is not None and scheduler.refused(batch) == []
    batch = scheduler.next_batch(0)
    assert batch is not None and content(batch) == [("a", 0)]
    assert [one.job for one in scheduler.refused(batch)] == ["a"]
    assert run_one(scheduler) == [("b", 0)]


def test_a_window_refused_alone_is_given_up() -> None:
    scheduler = scheduler_with(("a", "normal"))
    scheduler.add(parcel("a", 0), 0)
    batch = scheduler.next_batch(0)
    assert batch is not None
    assert [one.job for one in scheduler.refused(batch)] == ["a"]
    assert is_idle(scheduler)


def test_the_cost_of_a_batch_does_not_depend_on_the_backlog() -> None:
    def cost_s(windows: int) -> float:
        scheduler = WindowScheduler(batch_size=8, replicas=1)
        for job in range(200):
            scheduler.add_job(str(job), PRIORITIES[job % 3])
        for index in range(windows):
            options = (ENGLISH, GERMAN)[index % 7 == 0]
            scheduler.add(parcel(str(index % 200), index, s=5 + index % 20, options=options), 0)
        began_s = time.process_time()
        while run_one(scheduler):
            pass
        assert is_idle(scheduler)
        return time.process_time() - began_s

    # The ratio is four if the cost is constant, and sixteen if it grows with the backlog: far enough apart
    # that one of five tries tells them apart, even on a busy computer.
    assert any(cost_s(10_000) < 8 * cost_s(2_500) for _ in range(5)), "a batch costs more when more waits"


def test_windows_of_one_job_with_similar_lengths_share_a_batch() -> None:
    scheduler = WindowScheduler(batch_size=3, replicas=1)
    scheduler.add_job("1", "normal")
    for index, seconds in enumerate([20, 9, 14, 26, 19, 10, 3, 21]):
        scheduler.add(parcel("1", index, s=seconds), 0)
    batches = []
    while (batch := scheduler.next_batch(0)) is not None:
        batches.append([one.indexes[0] for one in batch.parcels])
        scheduler.done(batch)
    assert batches == [[0, 4, 7], [1, 5], [2], [3], [6]]


# Generated loads


@dataclass(frozen=True)
class JobPlan:
    """A generated job: when it arrives, when it is cancelled, and its parcels."""

    priority: Priority
    arrival_s: float
    cancel_s: float | None
    options: DecodeOptions
    parcels: list[tuple[float, int, bool]]
    """For each: seconds per window, number of windows, and whether it kills the worker."""
    is_complete: bool = True
    """Whether the scheduler is told that no more windows follow."""


@dataclass
class Simulation:
    """Runs a load on a simulated clock and checks every step against the rules."""

    plans: list[JobPlan]
    batch_size: int
    replicas: int
    overtakes: bool = False
    equal_contexts: bool = False
    now_s: float = 0.0
    computed: Counter[tuple[str, int]] = field(default_factory=Counter)
    started: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    given_up: set[tuple[str, int]] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    deaths: int = 0

    def __post_init__(self) -> None:
        self.scheduler = WindowScheduler(
            batch_size=self.batch_size,
            replicas=self.replicas,
            overtakes=self.overtakes,
            context_of=equal_context if self.equal_contexts else None,
        )
        self.running: dict[int, Batch] = {}
        self.poison = {
            (str(job), index)
            for job, plan in enumerate(self.plans)
            for index, (_, _, is_poison) in enumerate(plan.parcels)
            if is_poison
        }
        self.waiting: dict[Priority, Counter[str]] = {priority: Counter() for priority in PRIORITIES}
        self.waits_since: dict[Priority, float] = {}
        self.longest_batch_s = 0.0

    def run(self) -> None:
        tie = count()
        events: list[tuple[float, int, str, int]] = []
        for job, plan in enumerate(self.plans):
            heapq.heappush(events, (plan.arrival_s, next(tie), "arrive", job))
            if plan.cancel_s is not None:
                heapq.heappush(events, (plan.arrival_s + plan.cancel_s, next(tie), "cancel", job))
        while events:
            self.now_s, _, what, which = heapq.heappop(events)
            getattr(self, what)(which)
            while (batch := self.scheduler.next_batch(self.now_s)) is not None:
                self.start(batch)
                takes_s = 0.05 * sum(window.duration_s for window in batch.windows)
                self.longest_batch_s = max(self.longest_batch_s, takes_s)
                heapq.heappush(events, (self.now_s + takes_s, next(tie), "finish", batch.id))

    def arrive(self, job: int) -> None:
        plan, name = self.plans[job], str(job)
        self.scheduler.add_job(name, plan.priority)
        if not +self.waiting[plan.priority]:
            self.waits_since[plan.priority] = self.now_s
        for index, (seconds, windows, _) in enumerate(plan.parcels):
            one = parcel(name, index, s=seconds, windows=windows, options=plan.options)
            self.scheduler.add(Parcel(name, (index,), one.windows, plan.options), self.now_s)
            self.waiting[plan.priority][name] += 1
        if plan.is_complete:
            self.scheduler.complete(name)

    def cancel(self, job: int) -> None:
        self.cancelled.add(str(job))
        self.scheduler.remove_job(str(job))
        del self.waiting[self.plans[job].priority][str(job)]

    def start(self, batch: Batch) -> None:
        self.check_batch(batch)
        self.running[batch.id] = batch
        priority = self.plans[int(batch.parcels[0].job)].priority
        if not (first := batch.parcels[0]).is_retry:
            oldest = min(set(range(len(self.plans[int(first.job)].parcels))) - set(self.started[first.job]))
            are_last = sum(self.waiting[priority].values()) <= self.replicas
            assert first.indexes[0] == oldest or are_last, "neither the oldest window nor one of the last"
        for one in batch.parcels:
            if not one.is_retry:
                self.started[one.job].append(one.indexes[0])
                self.waiting[priority][one.job] -= 1
        if not batch.parcels[0].is_retry:
            self.check_starvation()
            self.waits_since[priority] = self.now_s

    def check_batch(self, batch: Batch) -> None:
        first = batch.parcels[0]
        if len(self.running) >= self.replicas:
            assert self.overtakes and len(self.running) == self.replicas
            assert batch.rank < min(one.rank for one in self.running.values())
        assert len(batch.windows) <= self.batch_size or len(batch.parcels) == 1
        assert len({self.plans[int(one.job)].priority for one in batch.parcels}) == 1
        assert all(one.options == first.options for one in batch.parcels)
        lengths = [one.longest_s for one in batch.parcels]
        if self.equal_contexts:
            assert len(set(map(equal_context, lengths))) == 1
        else:
            assert max(lengths) <= MAX_LENGTH_RATIO * min(lengths)
        assert all(one.job not in self.cancelled for one in batch.parcels)
        if any(one.is_retry for one in (*batch.parcels, *self.running_parcels())):
            assert not self.running and len(batch.parcels) == 1

    def check_starvation(self) -> None:
        if self.deaths:  # retries precede everything else
            return
        for priority in PRIORITIES:
            if +self.waiting[priority]:
                waited_s = self.now_s - self.waits_since[priority]
                # Another priority may have waited as long, and goes first.
                assert waited_s <= STARVATION_S + 2 * self.longest_batch_s

    def running_parcels(self) -> list[Parcel]:
        return [one for batch in self.running.values() for one in batch.parcels]

    def finish(self, batch_id: int) -> None:
        if batch_id not in self.running:
            return  # it died together with another batch
        if any((one.job, one.indexes[0]) in self.poison for one in self.running[batch_id].parcels):
            self.die()
            return
        batch = self.running.pop(batch_id)
        self.scheduler.done(batch)
        self.computed.update((one.job, one.indexes[0]) for one in batch.parcels)

    def die(self) -> None:
        self.deaths += 1
        dead, self.running = self.running, {}
        for batch in dead.values():
            for one in self.scheduler.worker_died(batch):
                self.given_up.add((one.job, one.indexes[0]))


def plans(*, poison: bool) -> st.SearchStrategy[list[JobPlan]]:
    seconds = st.sampled_from([1.0, 4.0, 6.0, 8.5, 12.0, 20.0, 30.0])
    one_parcel = st.tuples(
        seconds,
        st.sampled_from([1, 1, 1, 1, 3]),
        st.sampled_from([False] * 12 + [True]) if poison else st.just(False),
    )
    return st.lists(
        st.builds(
            JobPlan,
            priority=st.sampled_from(PRIORITIES),
            arrival_s=st.floats(0, 120),
            cancel_s=st.none() | st.none() | st.floats(0, 60),
            options=st.sampled_from([ENGLISH, GERMAN]),
            parcels=st.lists(one_parcel, max_size=25),
            is_complete=st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )


generated = settings(
    max_examples=examples(120),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@generated
@given(
    plans=plans(poison=False),
    batch_size=st.integers(1, 8),
    replicas=st.integers(1, 4),
    overtakes=st.booleans(),
    equal_contexts=st.booleans(),
)
def test_every_window_is_computed_exactly_once(
    plans: list[JobPlan], batch_size: int, replicas: int, overtakes: bool, equal_contexts: bool
) -> None:
    simulation = Simulation(plans, batch_size, replicas, overtakes, equal_contexts)
    simulation.run()
    assert is_idle(simulation.scheduler)
    for job, plan in enumerate(plans):
        if plan.cancel_s is None:
            assert sorted(simulation.started[str(job)]) == list(range(len(plan.parcels)))
    assert all(times == 1 for times in simulation.computed.values())
    assert simulation.computed.total() == sum(map(len, simulation.started.values()))


@generated
@given(
    plans=plans(poison=True),
    batch_size=st.integers(1, 8),
    replicas=st.integers(1, 4),
    overtakes=st.booleans(),
)
def test_only_windows_that_kill_the_worker_are_given_up(
    plans: list[JobPlan], batch_size: int, replicas: int, overtakes: bool
) -> None:
    simulation = Simulation(plans, batch_size, replicas, overtakes)
    simulation.run()
    assert is_idle(simulation.scheduler)
    assert simulation.given_up <= simulation.poison
    for job, plan in enumerate(plans):
        if plan.cancel_s is not None:
            continue
        for index in range(len(plan.parcels)):
            key = (str(job), index)
            assert simulation.computed[key] == (key not in simulation.poison)
            assert (key in simulation.given_up) == (key in simulation.poison)


@generated
@given(
    lengths=st.lists(st.sampled_from([2.0, 5.0, 9.0, 15.0, 30.0]), min_size=2, max_size=8),
    options=st.lists(st.sampled_from([ENGLISH, GERMAN]), min_size=8, max_size=8),
    late=st.lists(st.integers(0, 30), min_size=8, max_size=8),
    batch_size=st.integers(1, 8),
)
def test_busy_jobs_of_one_priority_get_equal_shares(
    lengths: list[float], options: list[DecodeOptions], late: list[int], batch_size: int
) -> None:
    scheduler = WindowScheduler(batch_size=batch_size, replicas=1)
    served: dict[str, float] = {}
    for turn in range(90):
        for job, length_s in enumerate(lengths):
            if late[job] == turn:
                scheduler.add_job(str(job), "normal")
                for index in range(90 * batch_size):
                    scheduler.add(parcel(str(job), index, s=length_s, options=options[job]), 0)
                served = dict.fromkeys([*served, str(job)], 0.0)  # equal shares are required from here on
        batch = scheduler.next_batch(0)
        if batch is not None:
            for one in batch.parcels:
                served[one.job] += one.duration_s
            scheduler.done(batch)
        if served:
            # A job may be ahead when a late one arrives, and behind by as much at the end.
            assert max(served.values()) - min(served.values()) <= 2 * (LEAD_LIMIT_S + 30)
