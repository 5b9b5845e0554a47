"""The pool: loads once however many ask, keeps what is leased, and gives up what nobody wants."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from toy_runtime import BACKENDS, ENGINE, batch, descendants, until
from whisperd.plugins import Backend, Variant
from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, RuntimeStatus
from whisperd.runtimes.loaded import LoadedRuntime
from whisperd.runtimes.pool import KEPT_STATES, Lease, RuntimePool
from whisperd.runtimes.prepare import Prepared
from whisperd.settings import RuntimeSettings
from whisperd.tasks import open_task_group
from whisperd.worker.protocol import LoadParams
from whisperd_testing import batches, loads

pytestmark = pytest.mark.anyio

VARIANT = Variant(name="toy-cpu", lock=None, device="cpu", priority=1, compute_types=("int8", "float32"))
BACKEND = Backend(name="toy", engine=ENGINE, variants=(VARIANT,))


@pytest.fixture(autouse=True)
def toy_engine_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", BACKENDS)


class House:
    """A pool with what a daemon has around it."""

    pool: RuntimePool

    def __init__(self, **settings: object) -> None:
        self.settings = RuntimeSettings(replicas=1, **settings)  # type: ignore[arg-type]
        self.default_model = "no model in particular"
        self.events: list[RuntimeStatus] = []
        self.counts: list[int] = []
        self.prepared: Counter[str] = Counter()
        self.downloading = anyio.Event()
        self.may_download = anyio.Event()
        self.may_download.set()
        self.download_error: Exception | None = None

    async def prepare(self, model: str, on_progress: OnProgress) -> Prepared:
        self.prepared[model] += 1
        self.downloading.set()
        on_progress(Progress(name="toy", done=1, total=4))
        await self.may_download.wait()
        if self.download_error is not None:
            raise self.download_error
        return Prepared(BACKEND, VARIANT, None, Path(model))

    def publish(self, event: Event) -> None:
        assert isinstance(event, RuntimeStatus)
        self.events.append(event)

    def statuses(self) -> list[str]:
        """The statuses told of, without repetition."""
        told = [event.status for event in self.events]
        return [status for status, before in zip(told, [None, *told], strict=False) if status != before]

    async def until_status(self, status: str) -> None:
        await until(lambda: self.events and self.events[-1].status == status)


@asynccontextmanager
async def open_house(**settings: object) -> AsyncIterator[House]:
    house = House(**settings)
    async with open_task_group() as tasks:
        house.pool = RuntimePool(
            tasks, house.prepare, lambda: house.settings, lambda: house.default_model, house.publish
        )
        house.pool.held_count_changed = house.counts.append
        yield house
        tasks.cancel_scope.cancel()
    assert not descendants(), "a worker is left behind"
    assert all(state.leases == 0 for state in house.pool.states()), "a lease is left behind"


async def use(pool: RuntimePool, model: str) -> LoadedRuntime:
    with pool.lease(model) as lease:
        return await lease.runtime()


# Loading


async def test_a_model_is_loaded_when_its_lease_is_asked_for_it(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house() as house:
        with house.pool.lease(model) as lease:
            assert not house.prepared
            runtime = await lease.runtime()
            assert len(await runtime.transcribe(batch(1.0))) == 1
            (state,) = house.pool.states()
            assert (state.status, state.leases, state.loaded) == ("loaded", 1, runtime)
    assert house.statuses() == ["downloading", "loading", "loaded", "unloaded"]
    assert house.counts == [1, 0]


async def test_a_download_is_told_as_progress_of_the_runtime(toy: Callable[..., str]) -> None:
    async with open_house() as house:
        await use(house.pool, toy())
    told = [(event.status, event.progress, event.detail) for event in house.events[:3]]
    assert told == [
        ("downloading", None, None),
        ("downloading", 25.0, "downloading toy"),
        ("loading", None, None),
    ]


async def test_a_hundred_who_ask_at_once_load_once(toy: Callable[..., str]) -> None:
    model = toy()
    used: list[LoadedRuntime] = []

    async def one(house: House) -> None:
        used.append(await use(house.pool, model))

    async with open_house() as house:
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(one, house)
        assert len(used) == 100
        assert len(set(used)) == 1
    assert house.prepared[model] == len(loads(model)) == 1


async def test_models_are_loaded_beside_each_other(toy: Callable[..., str]) -> None:
    one, two = toy("one"), toy("two")
    async with open_house() as house:
        with house.pool.lease(one) as first, house.pool.lease(two) as second:
            assert await first.runtime() is not await second.runtime()
            assert house.counts == [1, 2]


async def test_the_settings_reach_the_worker(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house(cpu_threads=2, batch_size=7) as house:
        assert (await use(house.pool, model)).batch_size == 7
    assert [(one["replicas"], one["threads"]) for one in loads(model)] == [(1, 2)]


@pytest.mark.parametrize(("wanted", "used"), [("auto", "int8"), ("float32", "float32")])
async def test_the_precision_is_the_best_or_the_wanted(
    monkeypatch: pytest.MonkeyPatch, wanted: str, used: str
) -> None:
    asked: list[str] = []

    def note(_name: str, _backend: Backend, _bundle: Path | None, params: LoadParams, *_: object) -> None:
        asked.append(params.compute_type)
        raise WhisperdError("some.problem", "This is enough.", "Go on.")

    monkeypatch.setattr("whisperd.runtimes.pool.LoadedRuntime", note)
    async with open_house(compute_type=wanted) as house:
        with pytest.raises(WhisperdError):
            await use(house.pool, "toy")
    assert asked == [used]


async def test_a_precision_that_nobody_has() -> None:
    async with open_house(compute_type="int3") as house:
        with pytest.raises(WhisperdError) as raised:
            await use(house.pool, "toy")
    assert raised.value.code == "compute_type.unknown"
    assert "int8, float32" in raised.value.fix


# Failing


@pytest.mark.parametrize("where", ["downloading", "loading"])
async def test_all_who_wait_learn_why_it_failed_and_the_next_one_tries_again(
    toy: Callable[..., str], where: str
) -> None:
    model = toy(**({"load_error": "bad magic"} if where == "loading" else {}))
    errors: list[WhisperdError] = []

    async def one(house: House) -> None:
        try:
            await use(house.pool, model)
        except WhisperdError as error:
            errors.append(error)

    async with open_house() as house:
        if where == "downloading":
            house.download_error = WhisperdError("hub.down", "The hub is down.", "Wait.")
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one, house)
        assert {error.code for error in errors} == {
            "hub.down" if where == "downloading" else "model.load_failed"
        }
        assert len(errors) == len(set(map(id, errors))) == 50, "each has an error of its own"
        assert house.prepared[model] == 1
        (state,) = house.pool.states()
        assert state.status == "failed" and state.error is not None
        assert house.events[-1].error == state.error.to_wire()

        house.download_error = None
        (Path(model) / "config.json").write_text("{}")
        await use(house.pool, model)
        assert (state.status, state.error) == ("loaded", None)


async def test_a_mistake_in_preparing_does_not_end_the_daemon(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house() as house:
        house.download_error = ZeroDivisionError("a mistake")
        with pytest.raises(WhisperdError) as raised:
            await use(house.pool, model)
        assert raised.value.code == "internal.error"
        house.download_error = None
        await use(house.pool, model)


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_a_crash_loop_ends_the_runtime_and_the_next_one_tries_again(toy: Callable[..., str]) -> None:
    model = toy(load_signal="SIGSEGV")
    async with open_house() as house:
        with pytest.raises(WhisperdError) as raised:
            await use(house.pool, model)
        assert raised.value.code == "worker.died"
        (Path(model) / "config.json").write_text("{}")
        await use(house.pool, model)


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_deaths_while_idle_end_it_at_last_and_the_next_one_has_it_again(
    toy: Callable[..., str],
) -> None:
    model = toy()
    async with open_house() as house:
        runtime = await use(house.pool, model)
        while not runtime.unloaded.is_set():
            if runtime.pid is not None:
                os.kill(runtime.pid, signal.SIGKILL)
            await anyio.sleep(0.01)
        await use(house.pool, model)
        assert house.statuses() == [
            "downloading",
            "loading",
            "loaded",
            "failed",
            "downloading",
            "loading",
            "loaded",
        ]


# Giving up


@pytest.mark.parametrize("where", ["downloading", "loading"])
async def test_a_load_that_nobody_waits_for_is_given_up(toy: Callable[..., str], where: str) -> None:
    model = toy()
    async with open_house() as house:
        if where == "downloading":
            house.may_download = anyio.Event()
        else:
            (Path(model) / "hold_load").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use, house.pool, model)
            tasks.start_soon(use, house.pool, model)
            await until(lambda: house.downloading.is_set() if where == "downloading" else loads(model))
            tasks.cancel_scope.cancel()
        await house.until_status("cancelled")
        assert not descendants()
        house.may_download.set()
        (Path(model) / "hold_load").unlink(missing_ok=True)
        await use(house.pool, model)


async def test_a_load_goes_on_while_one_still_waits(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house() as house:
        house.may_download = anyio.Event()
        async with anyio.create_task_group() as patient:
            patient.start_soon(use, house.pool, model)
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(use, house.pool, model)
                await house.downloading.wait()
                tasks.cancel_scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert house.statuses() == ["downloading"]
            house.may_download.set()
        assert house.prepared[model] == 1


async def test_a_lease_that_has_not_asked_yet_keeps_a_load_going(toy: Callable[..., str]) -> None:
    """A job that waits for its turn holds one."""
    model = toy()
    async with open_house() as house:
        house.may_download = anyio.Event()
        with house.pool.lease(model) as lease:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(use, house.pool, model)
                await house.downloading.wait()
                tasks.cancel_scope.cancel()
            house.may_download.set()
            await lease.runtime()
        assert house.prepared[model] == 1


async def test_who_comes_while_it_is_given_up_has_it_loaded(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house() as house:
        house.may_download = anyio.Event()
        impatience = anyio.CancelScope()

        async def be_impatient() -> None:
            with impatience:
                await use(house.pool, model)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(be_impatient)
            await house.downloading.wait()
            impatience.cancel()
            (state,) = house.pool.states()
            while state.leases:
                await anyio.sleep(0)
            assert house.statuses() == ["downloading"], "it does not know yet that it is given up"
            house.may_download.set()
            await use(house.pool, model)
        assert house.prepared[model] == 2


class PuppetRuntime(LoadedRuntime):
    """A runtime without a process, which is loaded when the test says so."""

    async def run(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(20):  # a process takes its time to end
                    await anyio.sleep(0)
            self.unloaded.set()


async def test_giving_up_in_the_moment_of_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last who waits goes, another one comes, and the load succeeds, all in one breath."""
    puppets: list[PuppetRuntime] = []

    def make(*arguments: object) -> PuppetRuntime:
        puppets.append(PuppetRuntime(*arguments))  # type: ignore[arg-type]
        return puppets[-1]

    monkeypatch.setattr("whisperd.runtimes.pool.LoadedRuntime", make)
    impatience, turn = anyio.CancelScope(), anyio.Event()

    async def go(house: House) -> None:
        with impatience:
            await use(house.pool, "toy")

    async def come(house: House) -> None:
        await turn.wait()
        with house.pool.lease("toy") as lease:
            runtime = await lease.runtime()
            assert runtime is puppets[1], "the first one is being unloaded"

    async with open_house() as house, open_task_group() as tasks:
        tasks.start_soon(go, house)
        tasks.start_soon(come, house)
        await anyio.wait_all_tasks_blocked()
        impatience.cancel()
        turn.set()
        puppets[0].ready.set()
        await until(lambda: len(puppets) == 2)
        puppets[1].ready.set()


async def test_of_models_that_nobody_uses_the_last_ones_are_remembered(toy: Callable[..., str]) -> None:
    used = toy()
    async with open_house(keep_alive_s=-1) as house:
        await use(house.pool, used)
        house.download_error = an_error = WhisperdError("hub.down", "The hub is down.", "Wait.")
        for number in range(2 * KEPT_STATES):
            with pytest.raises(WhisperdError) as raised:
                await use(house.pool, f"model {number}")
            assert raised.value.code == an_error.code
        states = house.pool.states()
        assert len(states) == KEPT_STATES + 1
        assert (states[0].model, states[0].status) == (used, "loaded")
        assert states[-1].model == f"model {2 * KEPT_STATES - 1}"


# Unloading


async def test_an_idle_model_is_unloaded_and_its_process_gone(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house(keep_alive_s=0) as house:
        runtime = await use(house.pool, model)
        pid = runtime.pid
        await house.until_status("unloaded")
        assert pid is not None and not psutil.pid_exists(pid)
        (state,) = house.pool.states()
        assert state.loaded is None
        assert house.counts == [1, 0]


@pytest.mark.parametrize("keep", ["for ever", "as the default", "for long"])
async def test_a_model_that_is_kept(toy: Callable[..., str], keep: str) -> None:
    model = toy()
    keep_alive_s = {"for ever": -1, "as the default": 0, "for long": 3600}[keep]
    async with open_house(keep_alive_s=keep_alive_s) as house:
        if keep == "as the default":
            house.default_model = model
        await use(house.pool, model)
        await anyio.wait_all_tasks_blocked()
        (state,) = house.pool.states()
        assert state.status == "loaded"
        await use(house.pool, model)
    assert len(loads(model)) == 1


async def test_settings_that_changed_are_followed(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house(keep_alive_s=-1) as house:
        await use(house.pool, model)
        house.settings = RuntimeSettings(keep_alive_s=0)
        house.pool.settings_changed()
        await house.until_status("unloaded")


async def test_a_lease_keeps_it_however_long(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house(keep_alive_s=0) as house:
        with house.pool.lease(model) as lease:
            runtime = await lease.runtime()
            await use(house.pool, model)
            await anyio.wait_all_tasks_blocked()
            assert not runtime.unloaded.is_set()
        await house.until_status("unloaded")
    assert len(loads(model)) == 1


async def test_no_lease_falls_between_idle_and_unloaded(toy: Callable[..., str]) -> None:
    """However a lease and the end of the keep-alive fall together, who has a lease has a live runtime."""
    model = toy()
    async with open_house(keep_alive_s=0) as house:
        for steps in range(16):
            await use(house.pool, model)
            for _ in range(steps):
                await anyio.sleep(0)
            with house.pool.lease(model) as lease:
                runtime = await lease.runtime()
                await anyio.wait_all_tasks_blocked()
                assert not runtime.unloaded.is_set()
                await runtime.transcribe(batch(1.0))
    assert len(batches(model)) == 16


async def test_who_waits_while_it_is_unloaded_and_goes_again(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house(keep_alive_s=0) as house:
        await use(house.pool, model)
        (state,) = house.pool.states()
        while state.loaded is not None:
            await anyio.sleep(0)
        with anyio.move_on_after(0):
            await use(house.pool, model)
        await house.until_status("unloaded")
        assert "cancelled" not in house.statuses()


async def test_files_of_a_model_in_use_are_kept(toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house() as house:
        house.pool.check_unused(model)
        await use(house.pool, model)
        with pytest.raises(WhisperdError) as raised:
            house.pool.check_unused(model)
        assert raised.value.code == "model.in_use"


async def test_the_end_of_the_daemon_ends_every_worker(toy: Callable[..., str]) -> None:
    """`open_house` checks that nothing is left."""
    one, two = toy("one"), toy("two")
    leases: list[Lease] = []
    async with open_house(keep_alive_s=-1) as house:
        await use(house.pool, one)
        (Path(two) / "hold_load").touch()

        async def wait_for_ever() -> None:
            with house.pool.lease(two) as lease:
                leases.append(lease)
                await lease.runtime()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_ever)
            await until(lambda: loads(two))
            assert len(descendants()) == 2
            tasks.cancel_scope.cancel()
