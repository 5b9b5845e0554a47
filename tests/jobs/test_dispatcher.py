"""The dispatcher: real workers that die while they compute, and runtimes that are unloaded."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import msgspec
import pytest

from job_fakes import FakeRuntime, an_error
from toy_runtime import BACKENDS, running_runtime, until, window
from whisperd.jobs.batching import Parcel
from whisperd.jobs.dispatcher import Dispatcher
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.tasks import open_task_group
from whisperd.worker.process import Patience, WorkerDied
from whisperd.worker.protocol import DecodeOptions
from whisperd_testing import LIMIT_S, batches, loads

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def toy_engine_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", BACKENDS)


@asynccontextmanager
async def dispatching(runtime: FakeRuntime | LoadedRuntime) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(cast(LoadedRuntime, runtime))
    async with open_task_group() as tasks:
        tasks.start_soon(dispatcher.run)
        yield dispatcher
        tasks.cancel_scope.cancel()


class Outcomes:
    """Sends single windows of jobs, and records the result of each."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.texts: dict[str, str] = {}
        self.errors: dict[str, WhisperdError] = {}

    async def send(self, job: str, seconds: float, index: int = 0) -> None:
        options = DecodeOptions(language="en")
        try:
            results = await self._dispatcher.transcribe(Parcel(job, (index,), (window(seconds),), options))
            self.texts[job] = results[0].segments[0].text
        except WhisperdError as error:
            self.errors[job] = error


async def send_together(dispatcher: Dispatcher, model: str, **seconds: float) -> Outcomes:
    """Queue windows of several jobs behind one that holds up the worker, then release it."""
    outcomes = Outcomes(dispatcher)
    hold = Path(model) / "hold"
    hold.touch()
    async with open_task_group() as tasks:
        dispatcher.add_job("first", "normal")
        tasks.start_soon(outcomes.send, "first", 30.0)
        await until(lambda: batches(model))
        for job, length in seconds.items():
            dispatcher.add_job(job, "normal")
            tasks.start_soon(outcomes.send, job, length)
        await anyio.wait_all_tasks_blocked()
        hold.unlink()
    for job in seconds:
        dispatcher.remove_job(job)
    return outcomes


async def test_windows_of_several_jobs_share_a_batch(toy: Callable[..., str]) -> None:
    model = toy()
    async with running_runtime(model) as runtime, dispatching(runtime) as dispatcher:
        outcomes = await send_together(dispatcher, model, a=1.0, b=1.1, c=1.2)
    assert [one["durations"] for one in batches(model)] == [[30.0], [1.0, 1.1, 1.2]]
    assert outcomes.texts["b"] == " transcribe 1.10 s"


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_only_the_job_whose_window_kills_the_worker_fails(toy: Callable[..., str]) -> None:
    model = toy(poison_s=1.1, poison="SIGSEGV")
    async with running_runtime(model) as runtime, dispatching(runtime) as dispatcher:
        outcomes = await send_together(dispatcher, model, a=1.0, b=1.1, c=1.2)
    assert sorted(outcomes.texts) == ["a", "c", "first"]
    error = outcomes.errors["b"]
    assert error.code == "worker.died"
    assert "SIGSEGV" in error.message
    assert [one["durations"] for one in batches(model)] == [[30.0], [1.0, 1.1, 1.2], [1.0], [1.1], [1.2]]
    assert len(loads(model)) == 3


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("guilty", [2, 3, 4])
async def test_several_windows_that_kill_the_worker_fail_only_their_own_jobs(
    toy: Callable[..., str], guilty: int
) -> None:
    model = toy(poison_s=1.1, poison="SIGSEGV")
    bad, good = [f"bad{number}" for number in range(guilty)], ["good0", "good1"]
    seconds = {**dict.fromkeys(bad, 1.1), **dict.fromkeys(good, 1.2)}
    async with running_runtime(model, batch_size=6) as runtime, dispatching(runtime) as dispatcher:
        outcomes = await send_together(dispatcher, model, **seconds)
        assert not runtime.unloaded.is_set()
    assert len(batches(model)[1]["durations"]) == guilty + 2, "all windows were in one batch"
    assert sorted(outcomes.texts) == ["first", *good]
    assert {job: error.code for job, error in outcomes.errors.items()} == dict.fromkeys(bad, "worker.died")


async def test_a_window_that_hangs_the_engine_fails_only_its_own_job(toy: Callable[..., str]) -> None:
    model = toy(stuck="sleep", stuck_s=1.1)
    patience = Patience(batch_s=3.0, batch_per_audio_s=0.1)
    async with running_runtime(model, patience=patience) as runtime, dispatching(runtime) as dispatcher:
        with anyio.fail_after(LIMIT_S):
            outcomes = await send_together(dispatcher, model, a=1.0, b=1.1, c=1.2)
    assert sorted(outcomes.texts) == ["a", "c", "first"]
    assert "no answer in 3 s" in outcomes.errors["b"].message


async def test_removing_a_job_frees_its_running_batch(toy: Callable[..., str]) -> None:
    model = toy(cancels=True)
    hold = Path(model) / "hold"
    hold.touch()
    async with running_runtime(model) as runtime, dispatching(runtime) as dispatcher:
        outcomes = Outcomes(dispatcher)
        async with open_task_group() as tasks:
            dispatcher.add_job("a", "normal")
            tasks.start_soon(outcomes.send, "a", 30.0)
            await until(lambda: batches(model))
            dispatcher.remove_job("a")
            await until(lambda: dispatcher.has_room)
            assert hold.exists() and outcomes.texts == {}, "an abandoned batch yields no result"
            dispatcher.add_job("b", "normal")
            tasks.start_soon(outcomes.send, "b", 1.0)
            await until(lambda: len(batches(model)) == 2)
            hold.unlink()
            await until(lambda: "b" in outcomes.texts)
            tasks.cancel_scope.cancel()
    assert len(loads(model)) == 1


async def test_a_job_that_shares_a_batch_with_a_removed_job_gets_its_result(toy: Callable[..., str]) -> None:
    model = toy(cancels=True)
    hold = Path(model) / "hold"
    async with running_runtime(model) as runtime, dispatching(runtime) as dispatcher:
        outcomes = Outcomes(dispatcher)
        hold.touch()
        async with open_task_group() as tasks:
            for job in ("first", "a", "b"):
                dispatcher.add_job(job, "normal")
            tasks.start_soon(outcomes.send, "first", 30.0)
            await until(lambda: batches(model))
            tasks.start_soon(outcomes.send, "a", 1.0)
            tasks.start_soon(outcomes.send, "b", 1.1)
            await anyio.wait_all_tasks_blocked()
            dispatcher.remove_job("first")
            await until(lambda: len(batches(model)) == 2)
            (Path(model) / "unwanted").unlink()
            dispatcher.remove_job("a")
            await until((Path(model) / "unwanted").exists)
            hold.unlink()
            await until(lambda: outcomes.texts)
            tasks.cancel_scope.cancel()
    assert outcomes.texts == {"b": " transcribe 1.10 s"}


async def test_a_bug_fails_its_batch_and_the_next_one_is_computed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = FakeRuntime()
    runtime.errors[1.0] = ZeroDivisionError("a mistake")
    async with dispatching(runtime) as dispatcher:
        outcomes = Outcomes(dispatcher)
        for job, seconds in (("a", 1.0), ("b", 2.0)):
            dispatcher.add_job(job, "normal")
            await outcomes.send(job, seconds)
    assert outcomes.errors["a"].code == "internal.error"
    assert outcomes.texts == {"b": " 2"}
    assert "ZeroDivisionError" in caplog.text


async def test_a_crashed_dispatcher_fails_current_and_later_windows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("whisperd.jobs.dispatcher.WindowScheduler.next_batch", break_down)
    dispatcher = Dispatcher(cast(LoadedRuntime, FakeRuntime()))
    outcomes = Outcomes(dispatcher)
    with anyio.fail_after(LIMIT_S):
        async with open_task_group() as tasks:
            dispatcher.add_job("a", "normal")
            tasks.start_soon(outcomes.send, "a", 1.0)
            await anyio.wait_all_tasks_blocked()
            await dispatcher.run()
        dispatcher.add_job("b", "normal")
        await outcomes.send("b", 1.0)
    assert {job: error.code for job, error in outcomes.errors.items()} == dict.fromkeys(
        "ab", "internal.error"
    )
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_a_worker_killed_from_outside_fails_no_job(toy: Callable[..., str]) -> None:
    model = toy()
    (Path(model) / "crash").write_text("once SIGKILL")
    async with running_runtime(model, replicas=2) as runtime, dispatching(runtime) as dispatcher:
        outcomes = await send_together(dispatcher, model, a=1.0, b=20.0, c=1.2)
    assert not outcomes.errors
    assert len(outcomes.texts) == 4


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_a_crash_loop_fails_all_jobs_with_its_reason(toy: Callable[..., str]) -> None:
    model = toy()
    (Path(model) / "crash").write_text("SIGABRT")
    failures: list[WhisperdError] = []
    async with running_runtime(model, failures=failures) as runtime, dispatching(runtime) as dispatcher:
        outcomes = await send_together(dispatcher, model, a=1.0, b=2.0, c=4.0, d=8.0)
        assert runtime.unloaded.is_set()
    assert [error.code for error in failures] == ["worker.died"]
    assert not outcomes.texts
    assert {error.code for error in outcomes.errors.values()} == {"worker.died"}
    assert all("SIGABRT" in error.message for error in outcomes.errors.values())


async def test_only_the_window_that_the_engine_refuses_fails(toy: Callable[..., str]) -> None:
    model = toy(refuse_s=1.1)
    async with running_runtime(model) as runtime, dispatching(runtime) as dispatcher:
        outcomes = await send_together(dispatcher, model, a=1.0, b=1.1, c=1.2)
    assert sorted(outcomes.texts) == ["a", "c", "first"]
    assert outcomes.errors["b"].code == "toy.error"


async def test_waiting_windows_get_the_error_of_an_unloaded_runtime() -> None:
    runtime = FakeRuntime()
    runtime.may_compute = anyio.Event()
    async with dispatching(runtime) as dispatcher, open_task_group() as tasks:
        outcomes = Outcomes(dispatcher)
        for job in "abcdefgh":
            dispatcher.add_job(job, "normal")
            tasks.start_soon(outcomes.send, job, 1.0)
        await anyio.wait_all_tasks_blocked()
        assert len(runtime.batches) == 1, "some windows are computed and some wait"
        runtime.unload(an_error("worker.died"))
    assert {error.code for error in outcomes.errors.values()} == {"worker.died"}
    assert len(outcomes.errors) == len(set(map(id, outcomes.errors.values()))) == 8


async def test_windows_sent_to_an_unloaded_runtime_get_its_error() -> None:
    """A job may be decoding at that moment, and have no window in the dispatcher."""
    runtime = FakeRuntime()
    async with dispatching(runtime) as dispatcher:
        dispatcher.add_job("a", "normal")
        outcomes = Outcomes(dispatcher)
        runtime.unload()
        with anyio.fail_after(LIMIT_S):
            await outcomes.send("a", 1.0)
            await anyio.wait_all_tasks_blocked()
            await outcomes.send("a", 1.0)
    assert outcomes.errors["a"].code == "runtime.unloaded"


async def test_a_removed_job_takes_its_waiting_windows_with_it() -> None:
    runtime = FakeRuntime(batch_size=1)
    runtime.may_compute = anyio.Event()
    async with dispatching(runtime) as dispatcher, open_task_group() as tasks:
        outcomes = Outcomes(dispatcher)
        dispatcher.add_job("stays", "normal")
        dispatcher.add_job("goes", "normal")
        async with anyio.create_task_group() as going:
            for index in range(3):
                going.start_soon(outcomes.send, "goes", 1.0 + index, index)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(outcomes.send, "stays", 9.0)
            await anyio.wait_all_tasks_blocked()
            going.cancel_scope.cancel()
        dispatcher.remove_job("goes")
        runtime.may_compute.set()
    assert [lengths for _, lengths in runtime.batches] == [[1.0], [9.0]]
    assert not outcomes.errors


async def test_cancelled_hypotheses_are_abandoned_while_their_job_continues() -> None:
    runtime = FakeRuntime(batch_size=1)
    runtime.may_compute = anyio.Event()
    async with dispatching(runtime) as dispatcher, open_task_group() as tasks:
        outcomes = Outcomes(dispatcher)
        dispatcher.add_job("live", "interactive")
        async with anyio.create_task_group() as guesses:
            for index in (-1, -2):
                guesses.start_soon(outcomes.send, "live", 1.0 - index, index)
            await anyio.wait_all_tasks_blocked()
            guesses.cancel_scope.cancel()
        assert runtime.unwanted[0] is not None and runtime.unwanted[0].groups == {0}
        assert dispatcher.waiting == 0
        tasks.start_soon(outcomes.send, "live", 5.0)
        runtime.may_compute.set()
    assert [lengths for _, lengths in runtime.batches] == [[2.0], [5.0]]
    assert (outcomes.texts, outcomes.errors) == ({"live": " 5"}, {})


async def test_windows_of_a_held_class_wait_until_it_is_released() -> None:
    runtime = FakeRuntime()
    async with dispatching(runtime) as dispatcher, open_task_group() as tasks:
        outcomes = Outcomes(dispatcher)
        dispatcher.add_job("a", "bulk")
        dispatcher.hold(frozenset({"bulk"}))
        tasks.start_soon(outcomes.send, "a", 1.0)
        await anyio.wait_all_tasks_blocked()
        assert not runtime.batches
        dispatcher.hold(frozenset())
        with anyio.fail_after(LIMIT_S):
            await until(lambda: outcomes.texts == {"a": " 1"})


@pytest.mark.parametrize("equal", [False, True])
async def test_an_engine_may_require_windows_of_equal_contexts(equal: bool) -> None:
    runtime = FakeRuntime()
    runtime.info = msgspec.structs.replace(runtime.info, equal_contexts=equal)
    async with dispatching(runtime) as dispatcher, open_task_group() as tasks:
        outcomes = Outcomes(dispatcher)
        dispatcher.hold(frozenset({"normal"}))
        for job, seconds in {"a": 13.0, "b": 14.5}.items():
            dispatcher.add_job(job, "normal")
            tasks.start_soon(outcomes.send, job, seconds)
        await anyio.wait_all_tasks_blocked()
        dispatcher.hold(frozenset())
    assert sorted(len(lengths) for _, lengths in runtime.batches) == ([1, 1] if equal else [2])


async def test_a_finished_parcel_is_released_at_once() -> None:
    """Otherwise, each loaded runtime would hold megabytes of audio."""
    runtime = FakeRuntime()
    kept: list[weakref.ref[Parcel]] = []

    async def transcribe(dispatcher: Dispatcher) -> None:
        parcel = Parcel("a", (0,), (window(5.0),), DecodeOptions(language="en"))
        kept.append(weakref.ref(parcel))
        await dispatcher.transcribe(parcel)

    async with dispatching(runtime) as dispatcher:
        dispatcher.add_job("a", "normal")
        await transcribe(dispatcher)
        dispatcher.remove_job("a")
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        assert [parcel() for parcel in kept] == [None]


async def test_windows_in_the_engine_do_not_count_as_waiting() -> None:
    runtime = FakeRuntime(batch_size=1)
    runtime.may_compute = anyio.Event()
    options = DecodeOptions(language="en")
    async with dispatching(runtime) as dispatcher, open_task_group() as tasks:
        dispatcher.add_job("a", "normal")
        for index in range(2):
            parcel = Parcel("a", (index,), (window(5.0),), options)
            tasks.start_soon(dispatcher.transcribe, parcel)
        await anyio.wait_all_tasks_blocked()
        assert dispatcher.waiting_s("a") == 5.0, "the second window still waits"
        runtime.may_compute.set()
        await dispatcher.wait_for_batch()
        assert dispatcher.waiting_s("a") == 0.0


async def test_windows_of_a_removed_job_are_not_retried_when_their_worker_dies() -> None:
    runtime = FakeRuntime()
    runtime.may_compute = anyio.Event()
    runtime.errors[1.0] = WorkerDied("signal SIGKILL", "")
    async with dispatching(runtime) as dispatcher:
        outcomes = Outcomes(dispatcher)
        dispatcher.add_job("goes", "normal")
        async with anyio.create_task_group() as going:
            going.start_soon(outcomes.send, "goes", 1.0)
            await anyio.wait_all_tasks_blocked()
            going.cancel_scope.cancel()
        dispatcher.remove_job("goes")
        runtime.may_compute.set()
        dispatcher.add_job("stays", "normal")
        await outcomes.send("stays", 2.0)
    assert [lengths for _, lengths in runtime.batches] == [[1.0], [2.0]]
    assert outcomes.texts == {"stays": " 2"}


async def test_abandoned_windows_are_not_retried_when_their_worker_dies() -> None:
    runtime = FakeRuntime()
    runtime.may_compute = anyio.Event()
    runtime.errors[1.0] = WorkerDied("signal SIGKILL", "")
    async with dispatching(runtime) as dispatcher:
        outcomes = Outcomes(dispatcher)
        dispatcher.add_job("live", "interactive")
        async with anyio.create_task_group() as guesses:
            guesses.start_soon(outcomes.send, "live", 1.0, -1)
            await anyio.wait_all_tasks_blocked()
            guesses.cancel_scope.cancel()
        runtime.may_compute.set()
        await outcomes.send("live", 2.0)
    assert [lengths for _, lengths in runtime.batches] == [[1.0], [2.0]]


@pytest.mark.parametrize("error", [an_error("engine.refused"), ValueError("a mistake")])
async def test_a_restarted_job_does_not_get_errors_of_its_earlier_windows(
    error: Exception,
) -> None:
    runtime = FakeRuntime(batch_size=1, replicas=2)
    may_fail = runtime.may_compute = anyio.Event()
    runtime.errors[1.0] = error
    async with dispatching(runtime) as dispatcher:
        outcomes = Outcomes(dispatcher)
        dispatcher.add_job("again", "normal")
        async with anyio.create_task_group() as first_time:
            first_time.start_soon(outcomes.send, "again", 1.0)
            await anyio.wait_all_tasks_blocked()
            first_time.cancel_scope.cancel()
        dispatcher.remove_job("again")
        dispatcher.add_job("again", "normal")
        runtime.may_compute = anyio.Event()
        async with open_task_group() as tasks:
            tasks.start_soon(outcomes.send, "again", 2.0)
            await anyio.wait_all_tasks_blocked()
            may_fail.set()
            await anyio.wait_all_tasks_blocked()
            runtime.may_compute.set()
    assert (outcomes.texts, outcomes.errors) == ({"again": " 2"}, {})
