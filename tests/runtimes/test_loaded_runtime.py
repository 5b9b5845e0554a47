"""A loaded runtime keeps its worker alive: real workers, killed in every state."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from toy_runtime import BACKENDS, batch, descendants, running_runtime, until
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.loaded import MAX_DEATHS_IN_A_ROW, LoadedRuntime
from whisperd.worker.process import WorkerDied
from whisperd_testing import batches, loads

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name != "posix", reason="signals")]


@pytest.fixture(autouse=True)
def toy_engine_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", BACKENDS)


def kill(runtime: LoadedRuntime, number: signal.Signals = signal.SIGKILL) -> None:
    assert runtime.pid is not None
    os.kill(runtime.pid, number)


async def test_a_worker_killed_while_idle_is_replaced(toy: Callable[..., str]) -> None:
    model = toy()
    async with running_runtime(model) as runtime:
        first = runtime.pid
        kill(runtime)
        await until(lambda: runtime.pid != first)
        assert len(await runtime.transcribe(batch(1.0))) == 1
        assert runtime.memory_bytes is not None and runtime.memory_bytes > 2**20
        assert len(loads(model)) == 2
    assert runtime.unloaded.is_set()
    assert not descendants()


async def test_a_worker_killed_during_a_batch_is_replaced(toy: Callable[..., str]) -> None:
    model = toy()
    (Path(model) / "crash").write_text("once SIGSEGV")
    async with running_runtime(model) as runtime:
        with pytest.raises(WorkerDied) as raised:
            await runtime.transcribe(batch(1.0))
        assert raised.value.how == "signal SIGSEGV"
        assert len(await runtime.transcribe(batch(1.0))) == 1


async def test_a_worker_that_keeps_dying_is_given_up(toy: Callable[..., str]) -> None:
    model = toy(poison_s=1.0, poison="SIGABRT")
    with pytest.raises(WhisperdError) as raised:
        async with running_runtime(model) as runtime:
            for _ in range(MAX_DEATHS_IN_A_ROW):
                with pytest.raises(WorkerDied):
                    await runtime.transcribe(batch(1.0))
            with pytest.raises(WhisperdError) as refused:
                await runtime.transcribe(batch(2.0))
            assert refused.value.code == "worker.died"
    assert raised.value.code == "worker.died"
    assert raised.value.data["how"] == "signal SIGABRT"
    assert runtime.why_unloaded().data == raised.value.data
    assert len(loads(model)) == MAX_DEATHS_IN_A_ROW
    assert not descendants()


async def test_a_successful_batch_resets_the_count_of_deaths(toy: Callable[..., str]) -> None:
    model = toy(poison_s=1.0, poison="SIGKILL")
    async with running_runtime(model) as runtime:
        for _ in range(2 * MAX_DEATHS_IN_A_ROW):
            with pytest.raises(WorkerDied):
                await runtime.transcribe(batch(1.0))
            await runtime.transcribe(batch(2.0))


async def test_a_worker_that_dies_while_loading_is_given_up(toy: Callable[..., str]) -> None:
    model = toy(load_signal="SIGSEGV")
    with pytest.raises(WhisperdError) as raised:
        async with running_runtime(model):
            pytest.fail("it was never ready")
    assert raised.value.code == "worker.died"
    assert "SIGSEGV" in raised.value.message
    assert len(loads(model)) == MAX_DEATHS_IN_A_ROW
    assert not descendants()


async def test_a_worker_that_runs_out_of_memory_while_loading_is_not_loaded_again(
    toy: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system might kill other programs next."""
    kills = itertools.count()
    monkeypatch.setattr("whisperd.worker.process.count_kills", lambda: next(kills))
    model = toy(load_signal="SIGKILL")
    with pytest.raises(WhisperdError) as raised:
        async with running_runtime(model):
            pytest.fail("it was never ready")
    assert raised.value.code == "memory.not_enough"
    assert len(loads(model)) == 1


async def test_a_batch_waits_for_the_replacement_worker(toy: Callable[..., str]) -> None:
    model = toy()
    async with running_runtime(model) as runtime, anyio.create_task_group() as tasks:
        (Path(model) / "hold_load").touch()
        kill(runtime)
        await until(lambda: runtime.pid is None)
        tasks.start_soon(runtime.transcribe, batch(1.0))
        await until(lambda: len(loads(model)) == 2)
        assert not batches(model)
        (Path(model) / "hold_load").unlink()
    assert len(batches(model)) == 1


async def test_a_waiting_batch_fails_when_the_runtime_is_unloaded(toy: Callable[..., str]) -> None:
    model = toy()
    raised: list[WhisperdError] = []

    async def transcribe(runtime: LoadedRuntime) -> None:
        try:
            await runtime.transcribe(batch(1.0))
        except WhisperdError as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks, running_runtime(model) as runtime:
        (Path(model) / "hold_load").touch()
        kill(runtime)
        await until(lambda: runtime.pid is None)
        tasks.start_soon(transcribe, runtime)
        await anyio.wait_all_tasks_blocked()
    assert [error.code for error in raised] == ["runtime.unloaded"]


async def test_a_process_that_cannot_be_started(
    toy: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(anyio, "open_process", refuse)
    with pytest.raises(WhisperdError) as raised:
        async with running_runtime(toy()):
            pytest.fail("it was never ready")
    assert raised.value.code == "worker.not_started"
