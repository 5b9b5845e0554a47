"""Real worker processes with the toy engine: their answers, and how they end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import NoneType

import anyio
import psutil
import pytest

from toy_runtime import BACKENDS, ENGINE, batch, descendants, until, window
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.served_child import ServedChild
from whisperd.worker.process import Patience, Unwanted, Worker, WorkerDied, open_worker
from whisperd.worker.protocol import BatchParams, CancelParams, DecodeOptions, LoadParams, WindowResult
from whisperd_testing import LIMIT_S, batches, loads

pytestmark = pytest.mark.anyio

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.fixture(autouse=True)
def toy_engine_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", BACKENDS)


@asynccontextmanager
async def worker_for(model: str, engine: str = ENGINE, **params: int) -> AsyncIterator[Worker]:
    async with open_worker(None, engine, LoadParams(model_path=model, **params)) as worker:
        yield worker


async def test_a_worker_loads_and_transcribes(toy: Callable[..., str]) -> None:
    model = toy()
    async with worker_for(model, replicas=2, cpu_threads=3) as worker:
        assert worker.info.library == "toy 1.0"
        results = await worker.transcribe(batch(1.0, 2.5))
        assert [one.segments[0].text for one in results] == [" transcribe 1.00 s", " transcribe 2.50 s"]
        assert psutil.pid_exists(worker.pid)
    assert not psutil.pid_exists(worker.pid), "leaving the block ends the process"
    assert loads(model) == [{"pid": worker.pid, "replicas": 2, "threads": 3}]


async def test_batches_are_computed_concurrently(toy: Callable[..., str]) -> None:
    model = toy()
    hold = Path(model) / "hold"
    hold.touch()
    async with worker_for(model, replicas=2) as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.transcribe, batch(1.0))
        tasks.start_soon(worker.transcribe, batch(2.0))
        await until(lambda: len(batches(model)) == 2)
        hold.unlink()


def batch_of_groups(count: int) -> BatchParams:
    windows = tuple(window(1.0 + group, group) for group in range(count))
    return BatchParams(windows=windows, options=DecodeOptions(language="en"))


async def test_an_unwanted_batch_is_aborted_and_the_worker_lives(toy: Callable[..., str]) -> None:
    model = toy(cancels=True)
    hold, unwanted = Path(model) / "hold", Unwanted()
    hold.touch()
    async with worker_for(model) as worker:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.transcribe, batch_of_groups(2), unwanted)
            await until(lambda: batches(model))
            unwanted.add([0])
            unwanted.add([1])
        assert hold.exists()
        hold.unlink()
        assert [one.segments[0].text for one in await worker.transcribe(batch(1.0))] == [" transcribe 1.00 s"]
    assert len(loads(model)) == 1


@pytest.mark.parametrize("cancels", [True, False])
async def test_the_wanted_windows_of_a_batch_are_computed(toy: Callable[..., str], cancels: bool) -> None:
    model = toy(cancels=cancels)
    hold, unwanted = Path(model) / "hold", Unwanted()
    hold.touch()
    results: list[WindowResult] = []
    async with worker_for(model) as worker, anyio.create_task_group() as tasks:

        async def transcribe() -> None:
            results.extend(await worker.transcribe(batch_of_groups(3), unwanted))

        tasks.start_soon(transcribe)
        await until(lambda: batches(model))
        unwanted.add([0, 2])
        if cancels:
            await until((Path(model) / "unwanted").exists)
        hold.unlink()
    assert len(results) == 3
    assert results[1].segments[0].text == " transcribe 2.00 s"
    assert [bool(one.segments) for one in results] == ([False, True, False] if cancels else [True] * 3)


async def test_a_worker_dies_during_an_unwanted_batch(toy: Callable[..., str]) -> None:
    model = toy(cancels=True)
    (Path(model) / "hold").touch()
    unwanted = Unwanted()
    async with worker_for(model) as worker, anyio.create_task_group() as tasks:

        async def transcribe() -> None:
            with pytest.raises(WorkerDied):
                await worker.transcribe(batch_of_groups(2), unwanted)

        tasks.start_soon(transcribe)
        await until(lambda: batches(model))
        psutil.Process(worker.pid).kill()
        unwanted.add([0])


async def test_an_engine_may_refuse_a_batch(toy: Callable[..., str]) -> None:
    async with worker_for(toy(refuse_s=2.0)) as worker:
        with pytest.raises(WhisperdError) as raised:
            await worker.transcribe(batch(1.0, 2.0))
        assert (raised.value.code, raised.value.fix) == ("toy.error", "Ask for something else.")
        assert len(await worker.transcribe(batch(1.0))) == 1


async def test_an_exception_in_an_engine_is_raised_and_logged(
    toy: Callable[..., str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_child: ServedChild, _stream: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(ServedChild, "keep_stderr", late)
    async with worker_for(toy(exception="flux capacitor")) as worker:
        with pytest.raises(WhisperdError) as raised:
            await worker.transcribe(batch(1.0))
        assert raised.value.code == "process.failed"
        assert "flux capacitor" in raised.value.message
        assert raised.value.data == {"exception": "ArithmeticError"}
        assert not worker.died.is_set()
    assert "in _misbehave" in caplog.text, "the log contains the traceback, for `daemon logs`"


@pytest.mark.parametrize("odd_answer", ["too_few", "no_result", "not_utf8"])
async def test_an_invalid_answer_of_an_engine(toy: Callable[..., str], odd_answer: str) -> None:
    async with worker_for(toy(odd_answer=odd_answer)) as worker:
        with pytest.raises(WhisperdError) as raised:
            await worker.transcribe(batch(1.0))
        assert raised.value.code == "worker.bad_answer"


async def test_an_engine_that_hangs_is_killed_after_a_timeout(toy: Callable[..., str]) -> None:
    patience = Patience(batch_s=0.2, batch_per_audio_s=0.1)
    async with open_worker(None, ENGINE, LoadParams(model_path=toy(stuck="sleep")), patience) as worker:
        with pytest.raises(WorkerDied) as raised, anyio.fail_after(LIMIT_S):
            await worker.transcribe(batch(3.0, 5.0))
        assert raised.value.how == "no answer in 1 s"
        assert not psutil.pid_exists(worker.pid)


async def test_a_worker_that_does_not_read_is_killed_after_a_timeout(toy: Callable[..., str]) -> None:
    patience = Patience(batch_s=0.2, batch_per_audio_s=0)
    async with open_worker(None, ENGINE, LoadParams(model_path=toy()), patience) as worker:
        psutil.Process(worker.pid).suspend()
        with pytest.raises(WorkerDied), anyio.fail_after(LIMIT_S):
            await worker.transcribe(batch(*[30.0] * 8))


async def test_a_load_that_hangs_is_given_up(toy: Callable[..., str]) -> None:
    model = toy()
    (Path(model) / "hold_load").touch()
    with pytest.raises(WhisperdError) as raised, anyio.fail_after(LIMIT_S):
        async with open_worker(None, ENGINE, LoadParams(model_path=model), Patience(load_s=0.2)):
            pass
    assert raised.value.code == "model.load_failed"
    assert not descendants()


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        (
            "tiny.en",
            "`whisperctl models verify tiny.en` and, if it is damaged, `whisperctl models pull tiny.en`",
        ),
        (None, "is complete, or download or copy the model again"),
        (str(Path("mine").absolute()), "mine is complete, or download or copy the model again"),
    ],
)
async def test_the_fix_for_a_model_contains_a_usable_command(
    toy: Callable[..., str], name: str | None, fix: str
) -> None:
    params = LoadParams(model_path=toy(load_error="bad magic"), model_name=name)
    with pytest.raises(WhisperdError) as raised:
        async with open_worker(None, ENGINE, params):
            pass
    assert fix in raised.value.fix


async def test_the_fix_for_a_library_contains_a_usable_command(toy: Callable[..., str]) -> None:
    params = LoadParams(model_path=toy(), bundle_name="toy-cpu")
    with pytest.raises(WhisperdError) as raised:
        async with open_worker(None, "no_such_module:load", params):
            pass
    assert "`whisperctl natives install toy-cpu`" in raised.value.fix


async def test_a_model_that_cannot_be_loaded(toy: Callable[..., str]) -> None:
    with pytest.raises(WhisperdError) as raised:
        async with worker_for(toy(load_error="bad magic")):
            pass
    assert raised.value.code == "model.load_failed"
    assert "bad magic" in raised.value.message
    assert not descendants()


@pytest.mark.parametrize(
    "engine", ["no_such_module:load", "toy_backend:no_such_function", "broken_engine:load"]
)
async def test_a_library_that_cannot_be_imported(
    toy: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    (tmp_path / "broken_engine.py").write_text("raise RuntimeError('this processor is too old')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([BACKENDS, str(tmp_path)]))
    with pytest.raises(WhisperdError) as raised:
        async with worker_for(toy(), engine):
            pass
    assert raised.value.code == "native.broken"
    assert not descendants()


@pytest.mark.parametrize("line", ["from whisperd.gone import rules", "from whisperd.worker import gone"])
async def test_an_engine_for_another_version_of_whisperd(
    toy: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "old_engine.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(WhisperdError, match="another version of whisperd") as raised:
        async with open_worker(None, "old_engine:load", LoadParams(model_path=toy(), bundle_name="toy-cpu")):
            pass
    assert raised.value.code == "native.broken"
    assert "natives" not in raised.value.fix  # the bundle is not at fault


async def test_a_bundle_comes_first_on_the_path(toy: Callable[..., str], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "toy_backend.py").write_text("raise RuntimeError('from the bundle')")
    with pytest.raises(WhisperdError) as raised:
        async with open_worker(bundle, ENGINE, LoadParams(model_path=toy())):
            pass
    assert "from the bundle" in raised.value.message


@posix_only
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
async def test_a_death_during_a_batch_is_noticed_at_once(
    toy: Callable[..., str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This timeout is for a worker that only closed its pipes.
    monkeypatch.setattr("whisperd.rpc.served_child.DEATH_TIMEOUT_S", 3600)
    model = toy()
    hold = Path(model) / "hold"
    hold.touch()
    async with worker_for(model) as worker, anyio.create_task_group() as tasks:
        deaths: list[WorkerDied] = []

        async def transcribe() -> None:
            try:
                await worker.transcribe(batch(1.0))
            except WorkerDied as death:
                deaths.append(death)

        tasks.start_soon(transcribe)
        tasks.start_soon(transcribe)
        await until(lambda: batches(model))
        os.kill(worker.pid, signal.Signals[name])
        with anyio.fail_after(LIMIT_S):
            await worker.died.wait()
            while len(deaths) < 2:
                await anyio.sleep(0)
        assert {death.how for death in deaths} == {f"signal {name}"}
        with pytest.raises(WorkerDied):
            await worker.transcribe(batch(1.0))


@posix_only
async def test_a_death_by_an_unnamed_signal(toy: Callable[..., str]) -> None:
    async with worker_for(toy()) as worker:
        os.kill(worker.pid, 40)  # a real-time signal
        await worker.died.wait()
        assert (await worker.cause_of_death()).how == "signal 40"


@posix_only
async def test_a_death_during_loading_includes_the_engines_last_words(toy: Callable[..., str]) -> None:
    with pytest.raises(WorkerDied) as raised:
        async with worker_for(toy(load_signal="SIGILL", chatter=True)):
            pass
    assert raised.value.how == "signal SIGILL"
    assert "hello from C" in raised.value.last_words
    assert not descendants()


async def test_a_librarys_output_does_not_break_the_stream(toy: Callable[..., str]) -> None:
    async with worker_for(toy(chatter=True)) as worker:
        for _ in range(3):
            assert len(await worker.transcribe(batch(1.0, 2.0))) == 2
        await until(lambda: "hello from Python" in worker._child.last_words)


async def test_results_may_be_huge(toy: Callable[..., str]) -> None:
    async with worker_for(toy(segments=2_000, characters=1_000)) as worker:
        results = await worker.transcribe(batch(30.0, 30.0, 30.0, 30.0))
        assert [len(one.segments) for one in results] == [2_000] * 4
        assert all(len(one.text) == 1_001 for one in results[0].segments)


async def test_a_very_large_batch_is_accepted(toy: Callable[..., str]) -> None:
    async with worker_for(toy()) as worker:
        assert len(await worker.transcribe(batch(*[30.0] * 64))) == 64


@pytest.mark.slow
async def test_excessive_results_end_the_worker(toy: Callable[..., str]) -> None:
    """A stream that is out of step, or an engine that runs amok, must not fill the daemon's memory."""
    async with worker_for(toy(segments=70, characters=2**20)) as worker:
        with pytest.raises(WorkerDied) as raised:
            await worker.transcribe(batch(1.0))
        assert raised.value.how == "it closed its connection"


@pytest.mark.parametrize("when", ["loading", "computing"])
async def test_cancelling_ends_the_process(toy: Callable[..., str], when: str) -> None:
    model = toy()
    (Path(model) / ("hold_load" if when == "loading" else "hold")).touch()
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            await until(lambda: loads(model) if when == "loading" else batches(model))
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            async with worker_for(model) as worker:
                await worker.transcribe(batch(1.0))
    assert scope.cancelled_caught
    assert not descendants()


PARENT = """
import os, sys, anyio
from toy_runtime import ENGINE, batch
from whisperd.worker.process import open_worker
from whisperd.worker.protocol import LoadParams

async def main():
    async with open_worker(None, ENGINE, LoadParams(model_path=sys.argv[1])) as worker:
        await worker.transcribe(batch(1.0))

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that holds the GIL survives")
@pytest.mark.parametrize("stuck", ["loop", "sleep"])
async def test_a_worker_dies_with_its_parent_whatever_it_is_doing(
    toy: Callable[..., str], stuck: str
) -> None:
    model = toy(stuck=stuck)
    paths = os.pathsep.join([BACKENDS, str(Path(__file__).parents[1])])
    parent = subprocess.Popen([sys.executable, "-c", PARENT, model], env={**os.environ, "PYTHONPATH": paths})
    try:
        await until(lambda: batches(model))
        (worker,) = psutil.Process(parent.pid).children()
        assert worker.pid == json.loads((Path(model) / "loads.jsonl").read_text())["pid"]
    finally:
        parent.kill()
        parent.wait()
    await until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    ("kills", "code"),
    [
        ([4, 5], "memory.not_enough"),  # the counts at the start and at the death
        ([4, 4], None),
        ([None, 5], None),
        ([4, None], None),
    ],
)
@posix_only
async def test_a_kill_counted_by_the_system_is_a_lack_of_memory(
    toy: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kills: list[int | None], code: str | None
) -> None:
    before, after = kills
    monkeypatch.setattr("whisperd.worker.process.count_kills", lambda: before)
    async with worker_for(toy()) as worker:
        await worker.transcribe(batch(1.0))
        monkeypatch.setattr("whisperd.worker.process.count_kills", lambda: after)
        os.kill(worker.pid, signal.SIGKILL)
        await worker.died.wait()
        fault = (await worker.cause_of_death()).fault
        assert (fault.code if fault else None) == code


@posix_only
@pytest.mark.parametrize(("name", "code"), [("SIGKILL", "memory.not_enough"), ("SIGSEGV", None)])
async def test_a_dead_workers_memory_takes_long_to_free(
    toy: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, code: str | None
) -> None:
    """The system closes its pipes first: the process may still exist when the wait for its end times out."""
    monkeypatch.setattr("whisperd.rpc.served_child.DEATH_TIMEOUT_S", 0)
    monkeypatch.setattr("whisperd.worker.process.count_kills", lambda: 4)
    async with worker_for(toy(load_memory=2**27)) as worker:
        monkeypatch.setattr("whisperd.worker.process.count_kills", lambda: 5)
        os.kill(worker.pid, signal.Signals[name])
        await worker.died.wait()
        death = await worker.cause_of_death()
        assert death.how == f"signal {name}"
        assert (death.fault.code if death.fault else None) == code


@posix_only
async def test_a_hung_worker_did_not_run_out_of_memory(
    toy: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = itertools.count()
    monkeypatch.setattr("whisperd.worker.process.count_kills", lambda: next(counts))
    patience = Patience(batch_s=0.2, batch_per_audio_s=0)
    async with open_worker(None, ENGINE, LoadParams(model_path=toy(stuck="loop")), patience) as worker:
        with pytest.raises(WorkerDied) as raised, anyio.fail_after(LIMIT_S):
            await worker.transcribe(batch(1.0))
    assert raised.value.fault is None


@posix_only
@pytest.mark.parametrize("behaviour", [{}, {"error": "not now"}])
async def test_warnings_before_the_last_answer_are_not_the_cause_of_death(
    toy: Callable[..., str], behaviour: dict[str, str]
) -> None:
    async with worker_for(toy(**behaviour)) as worker:
        worker._child.since_answer = "std::bad_alloc, and then it went on"
        with suppress(WhisperdError):
            await worker.transcribe(batch(1.0))
        os.kill(worker.pid, signal.SIGABRT)
        await worker.died.wait()
        assert (await worker.cause_of_death()).fault is None


@posix_only
async def test_an_answered_cancel_does_not_clear_the_last_warnings(toy: Callable[..., str]) -> None:
    """Another thread of the worker answers it, while the engine fails."""
    async with worker_for(toy()) as worker:
        worker._child.since_answer = "std::bad_alloc"
        await worker._child.request("cancel", CancelParams(id=0, groups=(0,)), NoneType)
        os.kill(worker.pid, signal.SIGABRT)
        await worker.died.wait()
        fault = (await worker.cause_of_death()).fault
        assert fault is not None and fault.code == "memory.not_enough"
