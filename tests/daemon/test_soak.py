"""Everything that can be done with one daemon, for as long as desired, leaks nothing.

Each cycle does all chores (`tests/chores.py`) in a different order, then kills the daemon's child processes.
Afterwards the daemon comes to rest, each acknowledged job has ended exactly once, its resource use is the
same as before, and sizes that may vary do not grow. `make soak` runs this for an hour, or for
`WHISPERD_SOAK_S` seconds. The seed is printed; `WHISPERD_SOAK_SEED` repeats it, though the interleaving may
differ.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import vital_signs
from chores import CHORES, DEFAULT_MODEL, ENDS, KILLS, SOUND, Chore, Do, Household
from crowd import not_hanging
from vital_signs import Signs, certain_slope, grown, measure, slope
from whisperd.client import AsyncClient
from whisperd.tasks import open_task_group
from whisperd_testing import TESTS, RunningDaemon, until

LONG_S = float(os.environ.get("WHISPERD_SOAK_S", "0"))
"""Seconds of the long campaign. The short one is a number of cycles, so that a slow machine does as much."""
SEED = os.environ.get("WHISPERD_SOAK_SEED", str(time.time_ns()) if LONG_S else "1")
CYCLES = 5
"""Cycles of the short campaign."""
WARM_UP = 10 if LONG_S else 2
"""The first cycles, which create everything that is created only once."""
PRINT_EVERY = 5
"""Cycles per printed line."""
CHILDREN = ("whisperd.worker.main", "whisperd.audio.decoder", "whisperd.folder_changes")
"""Children of which exactly one exists at rest."""
CLIENTS = 4
"""How many chores run concurrently."""
MOST_GROWTH = {"memory": 64 * 2**10, "blocks": 40.0, "objects": 20.0, "database": 8 * 2**10}
"""The most that a cycle may add in the long run, by size."""
MOST_VALUES = 100
"""The most cycles whose sizes are compared, pair by pair. With more cycles, every second, third, … counts."""
ENOUGH = 30
"""Cycles before sizes are meaningful: at first, the allocator keeps more and more memory."""
OF_JOBS = ("job.Job", "job.Transcript", "run.JobRun", "scheduler.Parcel", "journal.JobRecord")
"""Types in `whisperd.jobs` without instances once all jobs are cleared."""
KEPT_OBJECTS = {"whisperd.runtimes.history.StatusChange"}
"""Types whose instances are retained: the last fifty of each runtime."""
MOST_LOG_BYTES = 4 * 1_100_000
"""The log and three older ones, each of 1 MB plus the excess of its last line."""


def cycles() -> Iterator[int]:
    """Yield the numbers of the cycles until the campaign is over."""
    ends_s, number = time.monotonic() + LONG_S, 0
    while time.monotonic() < ends_s if LONG_S else number < CYCLES:
        yield number
        number += 1


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="counts file descriptors, and sends a signal")
@pytest.mark.timeout(600 + 2 * LONG_S)
def test_nothing_grows_and_nothing_is_lost(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    print(f"\nWHISPERD_SOAK_SEED={SEED}", flush=True)
    for name in ("temporary", "store"):
        (tmp_path / name).mkdir()
    daemon = make_daemon(
        env={
            "PYTHONPATH": f"{TESTS / 'backends'}{os.pathsep}{TESTS}",
            "TIDY": str(tmp_path / "tidy"),
            "TMPDIR": str(tmp_path / "temporary"),
            "WHISPERD_MODELS_DIR": str(tmp_path / "store"),
        },
        program=("tidy_daemon",),
    )
    home = Household(daemon, tmp_path)
    home.prepare()
    daemon.start()
    daemon.make_default(home.model(DEFAULT_MODEL))
    soak = Soak(home)
    try:
        anyio.run(soak.run)
    except BaseException as error:
        error.add_note(f"WHISPERD_SOAK_SEED={SEED}\n{daemon.log()[-4000:]}")
        raise
    assert daemon.process is not None and daemon.process.poll() is None


class Soak:
    """Runs the cycles and records the daemon's resource use after each."""

    def __init__(self, home: Household) -> None:
        self._home = home
        self._ended = 0
        """How many ends of jobs there were before this cycle."""
        self.signs: list[Signs] = []
        """Measurements since the warm-up."""

    async def run(self) -> None:
        async with self._home.visit() as client:
            await client.watch.add(self._home.watched, options=SOUND, outputs=["text"])
            for number in cycles():
                await self._do_all(number)
                with not_hanging("coming to rest"):
                    await self._rest(client)
                await self._check_jobs(client)
                self._check_log()
                is_warm = number >= WARM_UP
                signs = self._at_rest(self.signs[0].counts if is_warm else None)
                self.signs = [*self.signs, signs] if is_warm else [signs]
                self._check_sizes()
                if number % PRINT_EVERY == 0:
                    self._print_progress(number)

    async def _do_all(self, number: int) -> None:
        """Do all chores with a pool of clients, then those that kill, one after the other."""
        todo = Random(f"{SEED} {number}").sample(CHORES, len(CHORES))
        async with open_task_group() as tasks:
            for _ in range(CLIENTS):
                tasks.start_soon(self._work, number, todo)
        await self._work(number, list(KILLS))

    async def _work(self, number: int, todo: list[Do]) -> None:
        async with self._home.visit() as client:
            while todo:
                do = todo.pop()
                with not_hanging(do.__name__):
                    await do(Chore(self._home, client, number, Random(f"{SEED} {number} {do.__name__}")))

    async def _rest(self, client: AsyncClient) -> None:
        """Wait until all clients have disconnected and all jobs are over; load the default runtime."""
        while (status := await client.daemon.status())["clients"] > 1 or _active(status):
            await anyio.sleep(0.01)
        await client.runtimes.load(status["default_runtime"])
        while (await client.watch.show(str(self._home.watched)))["pending"]:
            await anyio.sleep(0.01)
        assert not [one for one in await client.runtimes.list() if one["leases"]]

    async def _check_jobs(self, client: AsyncClient) -> None:
        """Check that each job is listed and has ended exactly once, then clear all jobs."""
        jobs = {one["id"]: one["status"] for one in await client.jobs.list()}
        assert self._home.acknowledged <= set(jobs)
        assert set(jobs.values()) <= set(ENDS.values()), jobs
        ended = await _ends(client)
        assert ended - self._ended == len(jobs) + self._home.hidden_ends
        assert (await client.jobs.clear(purge=True))["cleared"] == len(jobs)
        self._ended, self._home.hidden_ends = ended, 0
        self._home.acknowledged.clear()

    def _check_log(self) -> None:
        logs = list((self._home.daemon.folder / "state").glob("daemon.log*"))
        assert sum(log.stat().st_size for log in logs) < MOST_LOG_BYTES
        for log in logs:
            text = log.read_text()
            for mistake in ("Traceback", "failed unexpectedly", "internal.error"):
                assert mistake not in text, text[max(0, text.index(mistake) - 2000) :][:4000]

    def _at_rest(self, before: Mapping[str, int] | None) -> Signs:
        """Measure until counts are no higher than before or, without a reference, until they stay equal.

        Counts taken one after the other may disagree: a child and its thread may start in between.
        """
        found: list[Signs] = []

        def is_at_rest() -> bool:
            found.append(measure(self._home.daemon, self._home.folder / "temporary"))
            counts, objects = found[-1].counts, found[-1].objects
            has_children = {f"child {name}": 1 for name in CHILDREN}.items() <= counts.items()
            has_jobs = any(f"whisperd.jobs.{name}" in objects for name in OF_JOBS)
            is_no_more = (
                not grown(before, counts) if before else counts in [one.counts for one in found[-2:-1]]
            )
            return has_children and not has_jobs and is_no_more

        try:
            until(is_at_rest, "the daemon to come to rest", every_s=0.2)
        except AssertionError as error:
            error.add_note(f"grown: {grown(before or {}, found[-1].counts)} {found[-1].objects}")
            raise
        return found[-1]

    def _check_sizes(self) -> None:
        """Check that the objects of no whisperd type grow in number, and no size beyond its allowance."""
        every = math.ceil(len(self.signs) / MOST_VALUES)
        some = self.signs[::every]
        for name in self.signs[-1].objects:
            if name.startswith("whisperd.") and name not in KEPT_OBJECTS:
                counts = [signs.objects.get(name, 0) for signs in some]
                assert certain_slope(counts) <= 0, f"{name}: {counts}"
        if len(self.signs) < ENOUGH:
            return
        for name, most in MOST_GROWTH.items():
            values = [signs.sizes[name] for signs in some]
            assert certain_slope(values) <= most * every, (
                f"{name}: {values}; {grown(self.signs[0].objects, self.signs[-1].objects)}"
            )

    def _print_progress(self, number: int) -> None:
        sizes = {name: int(value) for name, value in self.signs[-1].sizes.items()}
        last = self.signs[-MOST_VALUES:]
        slopes = {name: round(slope([one.sizes[name] for one in last])) for name in sizes}
        print(f"cycle {number}: {sizes}, by cycle {slopes}, jobs that ended {self._ended}", flush=True)


def _active(status: dict[str, Any]) -> int:
    return int(status["jobs"]["queued"] + status["jobs"]["running"])


async def _ends(client: AsyncClient) -> int:
    """Return how many ends of jobs there were since the daemon started."""
    families = text_string_to_metric_families((await client.daemon.metrics())["content"])
    return int(
        sum(one.value for family in families if family.name == "whisperd_jobs" for one in family.samples)
    )


# Growth statistics

NUMBERS = st.integers(-(2**40), 2**40)
"""Integers whose differences a float represents exactly."""


@given(NUMBERS, NUMBERS, st.lists(NUMBERS, max_size=8))
def test_slope_ignores_outliers_on_a_line(by_cycle: int, first: int, odd: list[int]) -> None:
    values = [first + by_cycle * number for number in range(40)]
    values[10 : 10 + len(odd)] = odd
    assert slope(values) == by_cycle


@given(st.lists(st.integers(-1000, 1000), max_size=30))
def test_certain_slope_never_exceeds_slope(values: list[int]) -> None:
    assert certain_slope(values) <= slope(values)


def test_certain_slope_tells_a_leak_from_noise() -> None:
    chance = Random(1)
    noise = [chance.gauss(0, 100) for _ in range(60)]
    assert certain_slope(noise) < 1
    leak = [value + 10 * number for number, value in enumerate(noise)]
    assert 8 < certain_slope(leak) < slope(leak) < 12
    assert certain_slope([5.0, 6.0]) == -math.inf, "too few values"


def test_grown_lists_increased_counts() -> None:
    assert grown({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 1}) == {"b": (2, 3), "d": (0, 1)}


def test_a_folder_moved_during_a_scan_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("passing", "staying"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    scandir = os.scandir

    def scan_late(path: str) -> Any:
        if Path(path).name == "passing":
            Path(path).rename(tmp_path.with_name("elsewhere"))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan_late)
    assert vital_signs._files(tmp_path) == {str(Path("staying", "file"))}
