"""The manager loads once for concurrent requests, keeps leased runtimes, and gives up loads without waiters.

Tests of endings, failures and kills use a toy worker; where only rules matter, a puppet stands in for it.
After every test, `open_house` checks that the database agrees with the manager and that nothing is left.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import psutil
import pytest

from toy_runtime import BACKENDS, ENGINE, batch, descendants, until
from whisperd.plugins import Backend, ModelFacts, Variant
from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event, RuntimeStatus
from whisperd.runtimes import DaemonInterface, Lease, LoadedRuntime, Runtime, RuntimeChanges, RuntimeManager
from whisperd.runtimes.fallback import FailedVariant, VariantFailures
from whisperd.runtimes.history import KEPT_STATUS_CHANGES
from whisperd.runtimes.host import KEPT_UNTIL_USED_S
from whisperd.runtimes.manager import KEPT_FAILURES
from whisperd.runtimes.prepare import Prepared, Tuning
from whisperd.runtimes.preset import Capabilities, RuntimePreset
from whisperd.runtimes.presets import PresetStore
from whisperd.settings import RuntimeSettings
from whisperd.store import open_database
from whisperd.tasks import open_task_group
from whisperd.worker.protocol import EngineInfo
from whisperd_testing import LIMIT_S, batches, loads

pytestmark = pytest.mark.anyio

VARIANT = Variant(name="toy-cpu", lock=None, device="cpu", priority=1, compute_types=("int8", "float32"))
BACKEND = Backend(name="toy", engine=ENGINE, variants=(VARIANT,))
CAPABILITIES = Capabilities(backends={"toy": {"cpu": tuple(VARIANT.compute_types)}}, cpu_count=64)


def an_error(code: str = "some.problem") -> WhisperdError:
    return WhisperdError(code, "It broke.", "Mend it.")


class House:
    """A manager with a stand-in for the rest of the daemon."""

    manager: RuntimeManager
    store: PresetStore

    def __init__(self) -> None:
        self.settings = RuntimeSettings(workers=1)
        self.events: list[RuntimeStatus] = []
        self.counts: list[int] = []
        self.now_s = 0.0
        self.prepared: Counter[str] = Counter()
        self.downloading = anyio.Event()
        self.may_look = opened()
        self.may_download = opened()
        self.download_error: Exception | None = None
        self.has_others = False
        self.passed_over: tuple[FailedVariant, ...] = ()
        self.stamping = anyio.Event()
        self.may_stamp = opened()
        self.admission_error: WhisperdError | None = None
        self.admission: Any = SimpleNamespace(admit=self.admit)
        self.provisioner: Any = SimpleNamespace(
            models=SimpleNamespace(describe=self.describe, facts=self.facts),
            computer=SimpleNamespace(capabilities=self.capabilities),
            failures=VariantFailures(self.stamp),
            prepare=self.prepare,
            choose=self.choose,
        )
        self.tuning: Tuning | None = None
        self.choice_error: WhisperdError | None = None

    def interface(self) -> DaemonInterface:
        return DaemonInterface(
            settings=lambda: self.settings,
            publish=self.publish,
            held_count_changed=self.counts.append,
            clock=lambda: self.now_s,
        )

    async def prepare(self, preset: RuntimePreset, on_progress: OnProgress, *_: Any, **__: Any) -> Prepared:
        self.prepared[preset.model] += 1
        await self.may_look.wait()
        self.downloading.set()
        on_progress(Progress(name="toy", done=1, total=4))
        await self.may_download.wait()
        if self.download_error is not None:
            raise self.download_error
        return Prepared(
            BACKEND,
            VARIANT,
            None,
            Path(preset.model),
            tuning=self.tuning,
            passed_over=self.passed_over,
            has_others=self.has_others,
        )

    async def choose(self, _: RuntimePreset) -> tuple[Backend, Variant, Tuning | None]:
        if self.choice_error is not None:
            raise self.choice_error
        return BACKEND, VARIANT, self.tuning

    async def stamp(self, _: Variant) -> str:
        self.stamping.set()
        await self.may_stamp.wait()
        return ""

    async def capabilities(self, preset: RuntimePreset) -> Capabilities:
        return CAPABILITIES

    async def facts(self, model: str) -> ModelFacts | None:
        return None

    async def describe(self, name: str) -> Any:
        if name == "unknown":
            raise an_error("model.unknown")
        return SimpleNamespace(name=name.rstrip("/"), facts=None)

    async def admit(self, *arguments: Any) -> Any:
        if self.admission_error is not None:
            raise self.admission_error
        return arguments[-1]

    def publish(self, event: Event) -> None:
        assert isinstance(event, RuntimeStatus)
        self.events.append(event)

    async def create(self, model: str = "toy", **fields: Any) -> Runtime:
        """Create a saved runtime, named after the model's folder by default."""
        changes = RuntimeChanges(**{"name": Path(model).name, "model": model, **fields})
        return await self.manager.create(changes)

    async def edit(self, runtime: Runtime, version: int | None = None, **changes: Any) -> None:
        await self.manager.edit(runtime, RuntimeChanges(**changes), version)

    async def use(self, runtime: Runtime) -> LoadedRuntime:
        """Act as a job on the runtime."""
        with self.manager.lease(runtime) as lease:
            while True:
                await lease.loaded()
                with lease.use() as loaded:
                    if loaded is not None:
                        return loaded

    def status(self, runtime: Runtime) -> str:
        return self.manager.life(runtime).status

    async def until(self, runtime: Runtime, status: str) -> None:
        await until(lambda: self.status(runtime) == status)

    def statuses(self, runtime: Runtime) -> list[str]:
        """Return the published statuses without repetition, from the first one with a host."""
        told = [event.status for event in self.events if event.id == runtime.id]
        while told and told[0] == "unloaded":
            del told[0]
        return [status for status, before in zip(told, [None, *told], strict=False) if status != before]


def opened() -> anyio.Event:
    event = anyio.Event()
    event.set()
    return event


OpenHouse = Callable[..., Any]


@pytest.fixture
def open_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenHouse:
    """Return a function that opens houses in sequence on the same database; the first creates the default."""
    monkeypatch.setenv("PYTHONPATH", BACKENDS)

    @asynccontextmanager
    async def open_(first_model: str = "first") -> AsyncIterator[House]:
        house = House()

        async def choose_model() -> str:
            return first_model

        async with open_database(tmp_path / "whisperd.sqlite3") as database:
            house.store = PresetStore(database)
            async with open_task_group() as tasks:
                house.manager = RuntimeManager(
                    tasks, house.store, house.provisioner, house.admission, house.interface()
                )
                await house.manager.open(choose_model)
                with anyio.fail_after(2 * LIMIT_S):
                    yield house
                tasks.cancel_scope.cancel()
            await check_nothing_is_left(house)

    return open_


async def check_nothing_is_left(house: House) -> None:
    manager = house.manager
    assert not descendants(), "a worker process is left"
    for runtime in manager.all():
        life = manager.life(runtime)
        assert (life.leases, life.users, life.is_hosted) == (0, 0, False)
        assert runtime.hosting is None and runtime.loaded is None
    presets, default = await house.store.load()
    assert presets == tuple(runtime.preset for runtime in manager.all() if runtime.is_saved)
    assert default == manager.default.id
    assert [manager.life(one).is_default for one in manager.all()].count(True) == 1


class Puppet(LoadedRuntime):
    """A loaded runtime without a process, controlled by its `Puppets`."""

    puppets: Puppets

    async def run(self) -> None:
        try:
            await self.puppets.may_load.wait()
            if self.puppets.load_error is not None:
                raise self.puppets.load_error
            self.info = EngineInfo(
                multilingual=True, languages=("en",), compute_type="int8", library="puppet"
            )
            self.ready.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(20):  # a process takes time to end
                    await anyio.sleep(0)
                await self.puppets.may_end.wait()
            self.unloaded.set()


class Puppets:
    """The puppets made so far, oldest first, and the behaviour of the next ones."""

    def __init__(self) -> None:
        self.made: list[Puppet] = []
        self.may_load = opened()
        self.may_end = opened()
        self.load_error: WhisperdError | None = None

    def make(self, *arguments: Any) -> Puppet:
        puppet = Puppet(*arguments)
        puppet.puppets = self
        self.made.append(puppet)
        return puppet

    @property
    def models(self) -> list[str | None]:
        return [puppet.params.model_name for puppet in self.made]


@pytest.fixture
async def puppets(monkeypatch: pytest.MonkeyPatch) -> Puppets:
    puppets = Puppets()
    monkeypatch.setattr("whisperd.runtimes.host.LoadedRuntime", puppets.make)
    return puppets


async def failure(action: Awaitable[object]) -> WhisperdError:
    with pytest.raises(WhisperdError) as raised:
        await action
    return raised.value


def refusal_of_lease(house: House, runtime: Runtime) -> WhisperdError:
    with pytest.raises(WhisperdError) as raised:
        house.manager.lease(runtime)
    return raised.value


# Listing and finding


async def test_the_first_start_makes_the_default(open_house: OpenHouse) -> None:
    async with open_house("base") as house:
        (only,) = house.manager.all()
        assert house.manager.default is house.manager.answering is only
        view = house.manager.view(only)
        assert (view.name, view.model, view.default, view.enabled, view.saved) == (
            "base", "base", True, True, True,
        )  # fmt: skip
        assert (view.status, view.version, view.workers) == ("unloaded", 1, 1), (
            "the number of workers comes from the settings"
        )


async def test_a_restart_changes_nothing(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        one = await house.create("one", keep_alive=-1, batch_size=7)
        two = await house.create("two", protected=True)
        await house.create("three")
        await house.edit(one, name="uno")
        await house.manager.disable(one)
        await house.manager.make_default(two)
        await house.use(house.manager.with_model("once"))
        before = [runtime.preset for runtime in house.manager.all() if runtime.is_saved]
    async with open_house("another") as house:
        assert [runtime.preset for runtime in house.manager.all()] == before
        assert house.manager.default.name == "two"
        lives = [house.manager.life(runtime) for runtime in house.manager.all()]
        assert [life.is_enabled for life in lives] == [True, False, True, True]
        assert [life.is_protected for life in lives] == [False, False, True, False]
        assert {life.status for life in lives} == {"unloaded"}


async def test_a_runtime_is_found_by_its_name_then_by_its_id(open_house: OpenHouse) -> None:
    async with open_house() as house:
        fast = await house.create("tiny", name="fast")
        once = house.manager.with_model("my-model")
        assert house.manager.find("fast") is house.manager.find(fast.id) is fast
        assert house.manager.find("my-model") is once
        saved = await house.create("other", name="my-model")
        assert house.manager.find("my-model") is saved, "a saved runtime precedes a temporary one"
        with pytest.raises(WhisperdError) as raised:
            house.manager.find("fats")
        assert raised.value.code == "runtime.unknown"
        assert "Did you mean fast?" in raised.value.fix
        assert raised.value.data["runtimes"] == ["first", "fast", "my-model"]


async def test_invalid_runtimes_are_not_created(open_house: OpenHouse) -> None:
    async with open_house() as house:
        for code, fields in [
            ("runtime.exists", {"name": "first"}),
            ("runtime.exists", {"name": house.manager.default.id}),
            ("runtime.invalid", {"name": "/"}),
            ("runtime.invalid", {"batch_size": 0}),
            ("runtime.invalid", {"compute_type": "float16"}),
            ("runtime.invalid", {"backend": "another"}),
            ("model.unknown", {"model": "unknown", "name": "new"}),
        ]:
            assert (await failure(house.create(**{"model": "new", **fields}))).code == code, fields
        assert len(house.manager.all()) == 1


async def test_model_names_are_normalised(open_house: OpenHouse) -> None:
    async with open_house() as house:
        assert (await house.create("models/toy/", name="toy")).preset.model == "models/toy"


async def test_a_new_runtime_is_announced(open_house: OpenHouse) -> None:
    async with open_house() as house:
        runtime = await house.create()
        (event,) = house.events
        assert (event.id, event.name, event.status) == (runtime.id, "toy", "unloaded")


# Finding a runtime for a model


async def test_of_runtimes_with_a_model_the_default_precedes_the_oldest(open_house: OpenHouse) -> None:
    async with open_house() as house:
        for name in ("a", "b", "c"):
            await house.create("toy", name=name)
        assert house.manager.with_model("toy").name == "a"
        await house.manager.disable(house.manager.find("a"))
        assert house.manager.with_model("toy").name == "b"
        await house.manager.make_default(house.manager.find("c"))
        assert house.manager.with_model("toy").name == "c"
        assert all(runtime.is_saved for runtime in house.manager.all())


async def test_a_temporary_runtime_is_shared_and_removed_with_its_worker(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        once = house.manager.with_model("owner/model with a name that no saved one has")
        assert once is house.manager.with_model(once.preset.model)
        assert not once.is_saved and not house.manager.view(once).saved
        await house.use(once)
        assert house.manager.with_model(once.preset.model) is once, "it exists as long as its worker"
        await house.manager.unload(once)
        assert once not in house.manager.all()
        assert house.manager.with_model(once.preset.model) is not once


async def test_a_temporary_runtime_cannot_be_changed(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        manager = house.manager
        once = manager.with_model("once")
        await manager.load(once)
        actions: list[Callable[[], Awaitable[None]]] = [
            lambda: house.edit(once, name="new"),
            lambda: manager.delete(once),
            lambda: manager.make_default(once),
            lambda: manager.disable(once),
        ]
        for act in actions:
            error = await failure(act())
            assert error.code == "runtime.not_saved" and "runtimes create" in error.fix


async def test_only_the_last_failed_temporary_runtimes_are_listed(open_house: OpenHouse) -> None:
    async with open_house() as house:
        house.download_error = an_error("hub.down")
        for number in range(2 * KEPT_FAILURES):
            error = await failure(house.use(house.manager.with_model(f"model {number}")))
            assert error.code == "hub.down"
        told = [runtime for runtime in house.manager.all() if not runtime.is_saved]
        assert len(told) == KEPT_FAILURES
        assert told[-1].preset.model == f"model {2 * KEPT_FAILURES - 1}"
        assert house.status(told[-1]) == "failed"


async def test_the_files_of_a_model_in_use_are_protected(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create("toy", name="my own")
        house.manager.check_unused("toy")
        await house.use(runtime)
        with pytest.raises(WhisperdError) as raised:
            house.manager.check_unused("toy")
        assert raised.value.code == "model.in_use" and "my own" in raised.value.message
        assert raised.value.fix == "Unload the runtime first: `whisperctl runtimes unload 'my own'`."
        with house.manager.lease(runtime) as lease, lease.use():
            await house.edit(runtime, model="another")
            with pytest.raises(WhisperdError):
                house.manager.check_unused("toy")
        await until(lambda: puppets.models == ["toy", "another"])
        house.manager.check_unused("toy")
        await house.manager.unload(runtime)
        house.manager.check_unused("another")


# Loading


async def test_a_model_is_loaded_when_its_lease_requests_it(
    open_house: OpenHouse, toy: Callable[..., str]
) -> None:
    async with open_house() as house:
        runtime = await house.create(toy())
        with house.manager.lease(runtime) as lease:
            assert not house.prepared
            loaded = await lease.loaded()
            assert len(await loaded.transcribe(batch(1.0))) == 1
            view = house.manager.view(runtime, waiting=3)
            assert (view.status, view.leases, view.waiting, view.variant) == ("loaded", 1, 3, "toy-cpu")
            assert view.loaded is not None and view.loaded.library == "toy 1.0"
            assert view.pid in [worker.pid for worker in descendants()]
            assert view.memory is not None and view.memory > 2**20
            assert house.counts == [1]
        assert house.statuses(runtime) == ["downloading", "loading", "loaded"]
    assert house.counts == [1, 0]


async def test_a_download_is_reported_as_progress_of_the_runtime(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        await house.use(await house.create())
        told = [(event.status, event.progress, event.detail) for event in house.events[1:4]]
    assert told == [
        ("downloading", None, None),
        ("downloading", 25.0, "downloading toy"),
        ("loading", None, None),
    ]


async def test_a_hundred_concurrent_requests_load_once(
    open_house: OpenHouse, toy: Callable[..., str]
) -> None:
    model = toy()
    used: list[LoadedRuntime] = []

    async def one(house: House, runtime: Runtime) -> None:
        used.append(await house.use(runtime))

    async with open_house() as house:
        runtime = await house.create(model)
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(one, house, runtime)
        assert len(used) == 100
        assert len(set(used)) == 1
    assert house.prepared[model] == len(loads(model)) == 1


async def test_models_are_loaded_side_by_side(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        one, two = await house.create("one"), await house.create("two")
        with house.manager.lease(one) as first, house.manager.lease(two) as second:
            assert await first.loaded() is not await second.loaded()
            assert house.counts == [1, 2]


async def test_the_preset_reaches_the_worker(open_house: OpenHouse, toy: Callable[..., str]) -> None:
    model = toy()
    async with open_house() as house:
        runtime = await house.create(model, workers=2, cpu_threads=3, batch_size=7, compute_type="float32")
        loaded = await house.use(runtime)
        assert (loaded.batch_size, loaded.params.compute_type) == (7, "float32")
    assert [(one["replicas"], one["threads"]) for one in loads(model)] == [(2, 3)]


async def test_an_unbatched_runtime_has_batches_of_one(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        loaded = await house.use(await house.create(batched=False, batch_size=7))
        assert (loaded.batch_size, loaded.params.compute_type) == (1, "int8")


async def test_a_model_that_is_not_admitted_is_not_loaded(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        house.admission_error = an_error("memory.not_enough")
        runtime = await house.create()
        assert (await failure(house.use(runtime))).code == "memory.not_enough"
        assert house.status(runtime) == "failed"
        assert not puppets.made


# Failures


@pytest.mark.parametrize("where", ["downloading", "loading"])
async def test_all_waiters_get_the_error_and_the_next_request_retries(
    open_house: OpenHouse, toy: Callable[..., str], where: str
) -> None:
    model = toy(**({"load_error": "bad magic"} if where == "loading" else {}))
    errors: list[WhisperdError] = []

    async with open_house() as house:
        runtime = await house.create(model)
        if where == "downloading":
            house.download_error = an_error("hub.down")

        async def one() -> None:
            errors.append(await failure(house.use(runtime)))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one)
        code = "hub.down" if where == "downloading" else "model.load_failed"
        assert {error.code for error in errors} == {code}
        assert len(set(map(id, errors))) == 50, "each waiter gets its own error object"
        assert errors[0].data["runtimes"] == ["first"], "the error names the other runtimes"
        assert house.prepared[model] == 1
        view = house.manager.view(runtime)
        assert view.status == "failed" and view.error is not None and view.error["code"] == code
        assert house.events[-1].error == view.error

        house.download_error = None
        (Path(model) / "config.json").write_text("{}")
        await house.use(runtime)
        view = house.manager.view(runtime)
        assert (view.status, view.error) == ("loaded", None)


async def test_a_bug_in_preparing_does_not_end_the_daemon(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.download_error = ZeroDivisionError("a mistake")
        assert (await failure(house.use(runtime))).code == "internal.error"
        house.download_error = None
        await house.use(runtime)


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_a_crash_loop_ends_the_runtime_and_the_next_request_retries(
    open_house: OpenHouse, toy: Callable[..., str]
) -> None:
    model = toy(load_signal="SIGSEGV")
    async with open_house() as house:
        runtime = await house.create(model)
        assert (await failure(house.use(runtime))).code == "worker.died"
        (Path(model) / "config.json").write_text("{}")
        await house.use(runtime)


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_repeated_deaths_while_idle_end_the_runtime_and_the_next_request_reloads_it(
    open_house: OpenHouse, toy: Callable[..., str]
) -> None:
    async with open_house() as house:
        runtime = await house.create(toy())
        loaded = await house.use(runtime)
        while not loaded.unloaded.is_set():
            if loaded.pid is not None:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(loaded.pid, signal.SIGKILL)
            await anyio.sleep(0.01)
        await house.until(runtime, "failed")
        await house.use(runtime)
        once, again = ["downloading", "loading", "loaded"], ["loading", "loaded"]
        assert house.statuses(runtime) == [*once, *again, *again, "failed", *once]


@pytest.mark.skipif(os.name != "posix", reason="signals")
async def test_a_runtime_whose_worker_died_is_not_reported_as_loaded(
    open_house: OpenHouse, toy: Callable[..., str]
) -> None:
    model = toy()
    async with open_house() as house:
        runtime = await house.create(model)
        loaded = await house.use(runtime)
        assert loaded.pid is not None
        (Path(model) / "hold_load").touch()
        os.kill(loaded.pid, signal.SIGKILL)
        await until(lambda: house.manager.life(runtime).reported_status == "loading")
        view = house.manager.view(runtime)
        assert (view.status, view.pid, view.loaded, view.memory) == ("loading", None, None, None)
        assert view.error is not None and view.error["code"] == "worker.died"
        assert not house.manager.life(runtime).is_settled
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.manager.load, runtime)
            await until(lambda: house.manager.life(runtime).leases == 1)
            (Path(model) / "hold_load").unlink()
        view = house.manager.view(runtime)
        assert (view.status, view.error, view.pid) == ("loaded", None, loaded.pid)
        assert [(moment.status, moment.error is not None) for moment in runtime.history][-3:] == [
            ("loaded", False), ("loading", True), ("loaded", False),
        ]  # fmt: skip


# Giving up a load


@pytest.mark.parametrize("where", ["downloading", "loading"])
async def test_a_load_without_waiters_is_given_up(
    open_house: OpenHouse, toy: Callable[..., str], where: str
) -> None:
    model = toy()
    async with open_house() as house:
        runtime = await house.create(model)
        if where == "downloading":
            house.may_download = anyio.Event()
        else:
            (Path(model) / "hold_load").touch()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.use, runtime)
            tasks.start_soon(house.manager.load, runtime)
            await until(lambda: house.downloading.is_set() if where == "downloading" else loads(model))
            tasks.cancel_scope.cancel()
        await house.until(runtime, "cancelled")
        assert not descendants()
        house.may_download.set()
        (Path(model) / "hold_load").unlink(missing_ok=True)
        await house.use(runtime)


async def test_a_load_continues_while_anyone_waits(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.may_download = anyio.Event()
        async with anyio.create_task_group() as patient:
            patient.start_soon(house.use, runtime)
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(house.use, runtime)
                await house.downloading.wait()
                tasks.cancel_scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert house.statuses(runtime) == ["downloading"]
            house.may_download.set()
        assert house.prepared["toy"] == 1


async def test_a_lease_that_does_not_wait_yet_keeps_a_load_alive(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    """A job in the queue holds such a lease."""
    async with open_house() as house:
        runtime = await house.create()
        house.may_download = anyio.Event()
        with house.manager.lease(runtime) as lease:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(house.use, runtime)
                await house.downloading.wait()
                tasks.cancel_scope.cancel()
            house.may_download.set()
            await lease.loaded()
        assert house.prepared["toy"] == 1


async def test_a_request_during_giving_up_loads_again(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.may_download = anyio.Event()
        impatience = anyio.CancelScope()

        async def be_impatient() -> None:
            with impatience:
                await house.use(runtime)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(be_impatient)
            await house.downloading.wait()
            impatience.cancel()
            while house.manager.life(runtime).leases:
                await anyio.sleep(0)
            assert house.status(runtime) == "downloading", "the cancellation has not reached it yet"
            house.may_download.set()
            await house.use(runtime)
        assert house.prepared["toy"] == 2


async def test_giving_up_at_the_moment_of_success(open_house: OpenHouse, puppets: Puppets) -> None:
    """The last waiter leaves, another arrives and the load succeeds, all in one turn of the event loop."""
    impatience, turn = anyio.CancelScope(), anyio.Event()
    puppets.may_load = anyio.Event()

    async with open_house() as house, open_task_group() as tasks:
        runtime = await house.create()

        async def go() -> None:
            with impatience:
                await house.use(runtime)

        async def come() -> None:
            await turn.wait()
            with house.manager.lease(runtime) as lease:
                loaded = await lease.loaded()
                assert loaded is puppets.made[1], "the first worker is being unloaded"

        tasks.start_soon(go)
        tasks.start_soon(come)
        await anyio.wait_all_tasks_blocked()
        impatience.cancel()
        turn.set()
        puppets.may_load.set()
        await until(lambda: len(puppets.made) == 2)


# Prepare, load, cancel, unload


async def test_preparing_only_downloads(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        await house.manager.prepare(runtime)
        assert (house.status(runtime), house.prepared["toy"]) == ("unloaded", 1)
        assert house.manager.view(runtime).variant == "toy-cpu"
        assert not puppets.made and not house.counts
        await house.manager.load(runtime)
        await house.manager.prepare(runtime)
        assert house.status(runtime) == "loaded"
        assert house.statuses(runtime) == ["downloading", "unloaded", "downloading", "loading", "loaded"]


async def test_a_failed_preparation_is_reported(open_house: OpenHouse) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.download_error = an_error("hub.down")
        assert (await failure(house.manager.prepare(runtime))).code == "hub.down"
        assert house.status(runtime) == "failed"


async def test_a_preparation_without_waiters_is_given_up(open_house: OpenHouse) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.may_download = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.manager.prepare, runtime)
            await house.downloading.wait()
            tasks.cancel_scope.cancel()
        await house.until(runtime, "cancelled")


async def test_a_load_joins_a_running_preparation(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.may_download, puppets.may_load = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as preparing:
                preparing.start_soon(house.manager.prepare, runtime)
                await house.downloading.wait()
                tasks.start_soon(house.manager.load, runtime)
                await anyio.wait_all_tasks_blocked()
                house.may_download.set()
            assert house.status(runtime) == "loading", "the preparing request does not wait for the load"
            puppets.may_load.set()
        assert house.status(runtime) == "loaded"
        assert house.prepared["toy"] == 1


@asynccontextmanager
async def falling_back(house: House, puppets: Puppets) -> AsyncIterator[Runtime]:
    """Start a load whose best variant has failed and whose next best is being prepared.

    The body runs during that preparation; on exit, wait until the runtime is loaded.
    """
    runtime = await house.create()
    house.has_others, puppets.may_load = True, anyio.Event()
    puppets.load_error = an_error("library.broken")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.manager.load, runtime)
        await house.until(runtime, "loading")
        house.may_download = anyio.Event()
        puppets.may_load.set()
        await until(lambda: house.prepared["toy"] == 2)
        puppets.load_error = None
        yield runtime
    assert (house.status(runtime), runtime.error, house.prepared["toy"]) == ("loaded", None, 2)


async def test_a_preparation_waits_for_the_next_best_variant(open_house: OpenHouse, puppets: Puppets) -> None:
    async with (
        open_house() as house,
        falling_back(house, puppets) as runtime,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(house.manager.prepare, runtime)
        await anyio.wait_all_tasks_blocked()  # which never returns while a task polls
        house.may_download.set()


async def test_a_death_while_another_variants_failure_is_recorded_is_handled_normally(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house, falling_back(house, puppets) as runtime:
        house.may_stamp = anyio.Event()
        house.may_download.set()
        await house.stamping.wait()
        puppets.made[-1].on_death(an_error("worker.died"))
        assert house.manager.life(runtime).reported_status == "loading"
        puppets.made[-1].on_death(None)
        house.may_stamp.set()


@pytest.mark.parametrize("asked", ["load", "edit"])
async def test_a_failed_variant_is_retried_after_a_load_or_an_edit(
    open_house: OpenHouse, puppets: Puppets, asked: str
) -> None:
    async with open_house() as house:
        house.passed_over = (FailedVariant(VARIANT, an_error("memory.gpu_not_enough")),)
        runtime = await house.create()
        await house.use(runtime)
        failures = house.provisioner.failures
        await failures.note("toy", house.passed_over)
        house.passed_over = ()
        if asked == "edit":
            await house.edit(runtime, batch_size=1)
        else:
            await house.manager.load(runtime)
        assert await failures.find("toy", VARIANT) is None
        await house.manager.load(runtime)
        assert len(puppets.made) == 2, "only one reload, because no better variant is left"


async def test_a_runtime_is_reloaded_when_a_faster_configuration_is_known(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        await house.manager.reload_if_faster("toy")
        house.tuning = Tuning(1, 1, 8, 1.0)
        await house.manager.reload_if_faster("another")
        house.choice_error = an_error("backend.none")
        await house.manager.reload_if_faster("toy")
        await anyio.wait_all_tasks_blocked()
        assert len(puppets.made) == 1, "unchanged, another model, or no usable variant: no reload"
        house.choice_error = None
        await house.manager.reload_if_faster("toy")
        await until(lambda: len(puppets.made) == 2)
        assert (await house.use(runtime)).batch_size == 8


async def test_a_runtime_loaded_on_request_stays_until_its_first_use(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=0)
        await house.manager.load(runtime)
        await anyio.wait_all_tasks_blocked()
        assert house.status(runtime) == "loaded"
        await house.use(runtime)
        await house.until(runtime, "unloaded")
        assert len(puppets.made) == 1


async def test_a_runtime_that_is_never_used_is_unloaded_in_the_end(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=0)
        await house.manager.load(runtime)
        house.now_s += KEPT_UNTIL_USED_S
        runtime.wake()
        await house.until(runtime, "unloaded")


@pytest.mark.parametrize("where", ["downloading", "loading"])
async def test_cancelling_is_reported_to_all_waiters(
    open_house: OpenHouse, puppets: Puppets, where: str
) -> None:
    codes: list[str] = []
    async with open_house() as house:
        runtime = await house.create()
        if where == "downloading":
            house.may_download = anyio.Event()
        puppets.may_load = anyio.Event()

        async def wait(action: Callable[[Runtime], Awaitable[object]]) -> None:
            codes.append((await failure(action(runtime))).code)

        async with anyio.create_task_group() as tasks:
            for action in (house.use, house.use, house.manager.load):
                tasks.start_soon(wait, action)
            await house.until(runtime, where)
            await anyio.wait_all_tasks_blocked()
            await house.manager.cancel(runtime)
            assert house.status(runtime) == "cancelled"
        assert codes == ["runtime.cancelled"] * 3
        house.may_download.set()
        puppets.may_load.set()
        await house.use(runtime)


async def test_a_request_after_a_cancel_loads_again(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        puppets.may_load, puppets.may_end = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failure, house.use(runtime))
            await house.until(runtime, "loading")
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(house.manager.cancel, runtime)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(house.manager.prepare, runtime)
            tasks.start_soon(house.use, runtime)
            puppets.may_load.set()
            puppets.may_end.set()
        assert house.status(runtime) == "loaded"


async def test_cancelling_without_a_load_does_nothing(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        await house.manager.cancel(runtime)
        assert house.status(runtime) == "unloaded"
        await house.manager.load(runtime)
        await house.manager.cancel(runtime)
        assert house.status(runtime) == "loaded"


async def test_unloading_waits_until_the_memory_is_free(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        await house.manager.load(runtime)
        assert house.manager.life(runtime).is_settled
        puppets.may_end = anyio.Event()
        is_over = anyio.Event()

        async def unload() -> None:
            await house.manager.unload(runtime)
            is_over.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(unload)
            await anyio.wait_all_tasks_blocked()
            view = house.manager.view(runtime)
            assert (view.status, view.detail) == ("loaded", "unloading")
            assert not is_over.is_set()
            assert not house.manager.life(runtime).is_settled
            change = runtime.changed.next
            puppets.may_end.set()
        assert change.is_set()
        assert house.status(runtime) == "unloaded"
        await house.manager.unload(runtime)


async def test_a_runtime_in_use_is_not_unloaded(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        with house.manager.lease(runtime) as lease:
            loaded = await lease.loaded()
            for action in (house.manager.unload, house.manager.delete):
                assert (await failure(action(runtime))).code == "runtime.in_use"
            await anyio.wait_all_tasks_blocked()
            assert not loaded.unloaded.is_set()
        await house.manager.unload(runtime)


async def test_an_idle_runtime_can_be_evicted(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        await house.manager.evict(runtime).wait()
        assert house.status(runtime) == "unloaded"
        assert puppets.made[0].unloaded.is_set()


# Keep-alive


async def test_an_idle_runtime_is_unloaded_and_its_process_ends(
    open_house: OpenHouse, toy: Callable[..., str]
) -> None:
    async with open_house() as house:
        runtime = await house.create(toy(), keep_alive=0)
        pid = (await house.use(runtime)).pid
        await house.until(runtime, "unloaded")
        assert pid is not None and not psutil.pid_exists(pid)
        assert runtime.loaded is None
        assert house.counts == [1, 0]


@pytest.mark.parametrize("keep", ["for ever", "as the default", "for long"])
async def test_a_runtime_is_kept_loaded(open_house: OpenHouse, puppets: Puppets, keep: str) -> None:
    keep_alive_s = {"for ever": -1, "as the default": 0, "for long": 3600}[keep]
    async with open_house() as house:
        runtime = await house.create(keep_alive=keep_alive_s)
        if keep == "as the default":
            await house.manager.make_default(runtime)
        await house.use(runtime)
        house.now_s += 10**9 if keep != "for long" else 3599
        runtime.wake()
        await anyio.wait_all_tasks_blocked()
        assert house.status(runtime) == "loaded"
        await house.use(runtime)
        assert len(puppets.made) == 1


async def test_keep_alive_counts_from_the_last_use(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=100)
        for _ in range(3):
            await house.use(runtime)
            house.now_s += 99
            runtime.wake()
            await anyio.wait_all_tasks_blocked()
            assert house.status(runtime) == "loaded"
        house.now_s += 1
        runtime.wake()
        await house.until(runtime, "unloaded")
        assert len(puppets.made) == 1


async def test_a_lease_keeps_a_runtime_loaded_indefinitely(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=0)
        with house.manager.lease(runtime) as lease:
            loaded = await lease.loaded()
            await house.use(runtime)
            house.now_s += 10**9
            runtime.wake()
            await anyio.wait_all_tasks_blocked()
            assert not loaded.unloaded.is_set()
        await house.until(runtime, "unloaded")
        assert len(puppets.made) == 1


async def test_a_lease_is_released_once(open_house: OpenHouse) -> None:
    async with open_house() as house:
        runtime = await house.create()
        other = house.manager.lease(runtime)
        with house.manager.lease(runtime) as lease:
            lease.release()
            lease.release()
        assert house.manager.life(runtime).leases == 1
        other.release()


async def test_a_lease_at_the_end_of_keep_alive_gets_a_live_runtime(
    open_house: OpenHouse, toy: Callable[..., str]
) -> None:
    """However a lease coincides with the end of the keep-alive, its holder gets a live runtime."""
    model = toy()
    async with open_house() as house:
        runtime = await house.create(model, keep_alive=0)
        for steps in range(16):
            await house.use(runtime)
            for _ in range(steps):
                await anyio.sleep(0)
            with house.manager.lease(runtime) as lease:
                loaded = await lease.loaded()
                await anyio.wait_all_tasks_blocked()
                assert not loaded.unloaded.is_set()
                await loaded.transcribe(batch(1.0))
    assert len(batches(model)) == 16


async def test_a_waiter_that_leaves_during_unloading_has_no_effect(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=0)
        await house.use(runtime)
        while house.manager.life(runtime).ending is None:
            await anyio.sleep(0)
        with anyio.move_on_after(0):
            await house.use(runtime)
        await house.until(runtime, "unloaded")
        assert "cancelled" not in house.statuses(runtime)


async def test_a_request_during_unloading_loads_again(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=0)
        await house.use(runtime)
        while house.manager.life(runtime).ending is None:
            await anyio.sleep(0)
        assert await house.use(runtime) is puppets.made[1]


async def test_a_lease_reports_what_it_waits_for(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.may_look, house.may_download, puppets.may_load = anyio.Event(), anyio.Event(), anyio.Event()
        with house.manager.lease(runtime) as lease:
            assert lease.waits_for() is None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lease.loaded)
                await house.until(runtime, "downloading")
                assert lease.waits_for() == "preparing", (
                    "it is not known yet whether anything must be downloaded"
                )
                house.may_look.set()
                await house.downloading.wait()
                assert lease.waits_for() == "downloading toy 25 %"
                house.may_download.set()
                await house.until(runtime, "loading")
                assert lease.waits_for() == "loading"
                puppets.may_load.set()
            assert lease.waits_for() is None


async def test_the_daemons_end_ends_every_worker(open_house: OpenHouse, toy: Callable[..., str]) -> None:
    """`open_house` checks that nothing is left."""
    one, two = toy("one"), toy("two")
    leases: list[Lease] = []
    async with open_house() as house:
        await house.use(await house.create(one, keep_alive=-1))
        waiting = await house.create(two)
        (Path(two) / "hold_load").touch()

        async def wait_for_ever() -> None:
            with house.manager.lease(waiting) as lease:
                leases.append(lease)
                await lease.loaded()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_ever)
            await until(lambda: loads(two))
            assert len(descendants()) == 2
            tasks.cancel_scope.cancel()


# The default


async def test_the_old_default_answers_until_the_new_one_is_ready(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        manager, old = house.manager, house.manager.default
        await house.edit(old, keep_alive=0)
        await manager.load(old)
        new = await house.create("new")
        puppets.may_load = anyio.Event()
        await manager.make_default(new)
        await house.until(new, "loading")
        assert (manager.default, manager.answering) == (new, old)
        assert await house.use(old) is puppets.made[0]
        await anyio.wait_all_tasks_blocked()
        assert house.status(old) == "loaded", "it stays loaded as a standby, despite its keep-alive of 0"
        puppets.may_load.set()
        await house.until(new, "loaded")
        assert (manager.default, manager.answering) == (new, new)
        await house.until(old, "unloaded")


async def test_a_new_default_that_cannot_be_loaded_reports_its_error(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        manager, old = house.manager, house.manager.default
        await manager.load(old)
        new = await house.create("new")
        puppets.load_error = an_error("model.damaged")
        await manager.make_default(new)
        await house.until(new, "failed")
        assert manager.view(new).error == puppets.load_error.to_wire()
        assert manager.default is manager.answering is new, "no other runtime answers silently"
        error = await failure(house.use(manager.answering))
        assert (error.code, error.data["runtimes"]) == ("model.damaged", ["first"])


async def test_a_new_default_answers_at_once_if_the_old_one_is_not_loaded(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        new = await house.create("new")
        puppets.may_load = anyio.Event()
        await house.manager.make_default(new)
        assert house.manager.answering is new


async def test_the_default_changes_again_before_the_new_one_is_ready(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        manager, first = house.manager, house.manager.default
        await manager.load(first)
        second, third = await house.create("second"), await house.create("third")
        puppets.may_load = anyio.Event()
        await manager.make_default(second)
        await house.until(second, "loading")
        await manager.make_default(third)
        assert (manager.default, manager.answering) == (third, first)
        await house.until(second, "cancelled")
        await manager.make_default(first)
        assert (manager.default, manager.answering) == (first, first)
        await house.until(third, "cancelled")
        assert house.status(first) == "loaded"


async def test_making_the_default_the_default_loads_it(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        default = house.manager.default
        await house.manager.make_default(default)
        await house.until(default, "loaded")
        assert house.manager.default is default


async def test_the_default_cannot_be_unloaded_disabled_or_deleted(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        manager, default = house.manager, house.manager.default
        await manager.load(default)
        for action in (manager.unload, manager.disable, manager.delete):
            error = await failure(action(default))
            assert error.code == "runtime.is_default"
            assert "runtimes default" in error.fix
        assert (house.status(default), manager.all()) == ("loaded", [default])


async def test_a_disabled_runtime_cannot_become_the_default(open_house: OpenHouse) -> None:
    async with open_house() as house:
        new = await house.create("new")
        await house.manager.disable(new)
        assert (await failure(house.manager.make_default(new))).code == "runtime.disabled"
        assert house.manager.default.name == "first"


async def test_a_runtime_can_be_created_as_the_default(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        fields = RuntimeChanges(name="new", model="new")
        new = await house.manager.create(fields, make_default=True)
        assert house.manager.default is new
        await house.until(new, "loaded")


async def test_cancelling_the_creation_of_a_default_leaves_no_partial_change(
    open_house: OpenHouse, puppets: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def insert(*given: Any, **options: Any) -> None:
        await insert_it(*given, **options)
        scope.cancel()

    async with open_house() as house:
        insert_it = house.store.insert
        monkeypatch.setattr(house.store, "insert", insert)
        with anyio.CancelScope() as scope:
            await house.manager.create(RuntimeChanges(name="new", model="new"), make_default=True)
        assert house.manager.default.name == "new"
        assert (await house.store.load())[1] == house.manager.default.id


async def test_a_failing_database_changes_nothing(
    open_house: OpenHouse, puppets: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise an_error("disk.full")

    async with open_house() as house:
        manager, default = house.manager, house.manager.default
        runtime = await house.create()
        await house.use(runtime)
        with monkeypatch.context() as broken:
            for method in ("insert", "update", "delete", "set_default"):
                broken.setattr(house.store, method, refuse)
            for action in (
                house.create("new"),
                house.edit(runtime, batch_size=7, name="new"),
                manager.make_default(runtime),
                manager.disable(runtime),
            ):
                assert (await failure(action)).code == "disk.full"
            assert manager.all() == [default, runtime]
            assert manager.default is default
            assert (house.status(runtime), runtime.name, len(puppets.made)) == ("loaded", "toy", 1)
            assert (await failure(manager.delete(runtime))).code == "disk.full"
        assert manager.find("toy") is runtime
        await house.use(runtime)
        await manager.delete(runtime)


# Enabling


async def test_disabling_unloads_and_refuses_requests(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        await house.manager.disable(runtime)
        await house.until(runtime, "unloaded")
        version = runtime.preset.version
        await house.manager.disable(runtime)
        assert (runtime.preset.enabled, runtime.preset.version) == (False, version), "it was already disabled"
        error = refusal_of_lease(house, runtime)
        assert (error.code, error.data["runtimes"]) == ("runtime.disabled", ["first"])
        for action in (house.manager.load, house.manager.prepare):
            assert (await failure(action(runtime))).code == "runtime.disabled"
        await house.manager.enable(runtime)
        await house.use(runtime)


async def test_a_job_on_a_disabled_runtime_may_finish(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        with house.manager.lease(runtime) as lease:
            loaded = await lease.loaded()
            await house.manager.disable(runtime)
            assert refusal_of_lease(house, runtime).code == "runtime.disabled"
            await anyio.wait_all_tasks_blocked()
            with lease.use() as used:
                assert used is loaded and not loaded.unloaded.is_set()
        await house.until(runtime, "unloaded")


async def test_a_job_queued_before_disabling_still_runs(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        with house.manager.lease(runtime) as lease:
            await house.manager.disable(runtime)
            assert await lease.loaded() is puppets.made[0]
        await house.until(runtime, "unloaded")


# Editing


async def test_an_edit_reloads_an_idle_runtime(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        await house.edit(runtime, model="better", batch_size=7)
        await until(lambda: len(puppets.made) == 2 and house.manager.life(runtime).is_usable)
        assert puppets.models == ["toy", "better"]
        assert (await house.use(runtime)).batch_size == 7
        assert puppets.made[0].unloaded.is_set()


async def test_disabling_during_a_reload_prevents_loading(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        puppets.may_end = anyio.Event()
        await house.edit(runtime, model="better")
        await house.manager.disable(runtime)
        puppets.may_end.set()
        await house.until(runtime, "unloaded")
        await anyio.wait_all_tasks_blocked()
        assert (house.status(runtime), len(puppets.made)) == ("unloaded", 1)


async def test_an_edit_waits_for_running_batches(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        with house.manager.lease(runtime) as working, house.manager.lease(runtime) as waiting:
            await working.loaded()
            with working.use() as loaded:
                assert loaded is not None
                await house.edit(runtime, model="better")
                await anyio.wait_all_tasks_blocked()
                assert not loaded.unloaded.is_set()
                with waiting.use() as outdated:
                    assert outdated is None, "later uses get the new worker"
            assert await waiting.loaded() is puppets.made[1]
            assert loaded.unloaded.is_set()
        assert puppets.models == ["toy", "better"]


async def test_an_edit_of_an_unloaded_runtime_takes_effect_at_the_next_use(
    open_house: OpenHouse, puppets: Puppets
) -> None:
    async with open_house() as house:
        runtime = await house.create()
        await house.edit(runtime, model="better")
        await anyio.wait_all_tasks_blocked()
        assert (house.status(runtime), house.prepared.total()) == ("unloaded", 0)
        await house.use(runtime)
        assert puppets.models == ["better"]
        await house.manager.unload(runtime)
        assert house.manager.view(runtime).variant == "toy-cpu", "the variant of the last load"
        await house.edit(runtime, model="best")
        assert house.manager.view(runtime).variant is None


@pytest.mark.parametrize("where", ["downloading", "loading"])
async def test_an_edit_during_a_load_loads_the_new_model(
    open_house: OpenHouse, puppets: Puppets, where: str
) -> None:
    async with open_house() as house:
        runtime = await house.create()
        gate = anyio.Event()
        if where == "downloading":
            house.may_download = gate
        else:
            puppets.may_load = gate
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.use, runtime)
            await house.until(runtime, where)
            await anyio.wait_all_tasks_blocked()
            await house.edit(runtime, model="better")
            gate.set()
        assert puppets.models == (["better"] if where == "downloading" else ["toy", "better"])
        assert house.status(runtime) == "loaded"


async def test_an_edit_of_the_default_is_loaded_at_once(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        default = house.manager.default
        await house.edit(default, model="better")
        await house.until(default, "loaded")
        assert puppets.models == ["better"]


async def test_an_edit_clears_a_failure(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.download_error = an_error("hub.down")
        await failure(house.use(runtime))
        await house.edit(runtime, model="better")
        assert house.status(runtime) == "unloaded"


async def test_renaming_does_not_reload(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        with house.manager.lease(runtime) as lease:
            loaded = await lease.loaded()
            await house.edit(runtime, name="new name")
            assert (lease.name, lease.model) == ("new name", "toy")
            await anyio.wait_all_tasks_blocked()
            with lease.use() as used:
                assert used is loaded
        assert house.manager.find("new name") is house.manager.find(runtime.id) is runtime
        with pytest.raises(WhisperdError) as raised:
            house.manager.find("toy")
        assert raised.value.code == "runtime.unknown"
        assert house.events[-1].name == "new name"
        assert len(puppets.made) == 1
        await house.create("toy")  # the old name is free


async def test_a_shorter_keep_alive_takes_effect_at_once(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        await house.edit(runtime, keep_alive="0")
        await house.until(runtime, "unloaded")
        assert len(puppets.made) == 1


async def test_of_two_edits_of_one_version_the_second_is_refused(open_house: OpenHouse) -> None:
    async with open_house() as house:
        runtime = await house.create()
        codes: list[str] = []

        async def edit(batch_size: int) -> None:
            try:
                await house.edit(runtime, version=1, batch_size=batch_size)
            except WhisperdError as error:
                codes.append(error.code)

        async with anyio.create_task_group() as tasks:
            for batch_size in (2, 3):
                tasks.start_soon(edit, batch_size)
        assert codes == ["runtime.stale"]
        assert (runtime.preset.batch_size, runtime.preset.version) == (2, 2)
        await house.edit(runtime, version=2, batch_size=3)
        await house.edit(runtime, batch_size=4)
        assert (runtime.preset.batch_size, runtime.preset.version) == (4, 4)


async def test_an_edit_without_changes_does_nothing(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        before = runtime.preset
        await house.edit(runtime, model="toy", name="toy")
        assert runtime.preset == before
        await house.use(runtime)
        assert len(puppets.made) == 1


async def test_an_invalid_edit_changes_nothing(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        before = runtime.preset
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("runtime.exists", {"name": "first"}),
            ("runtime.invalid", {"batch_size": 0}),
            ("runtime.invalid", {"compute_type": "float16"}),
            ("runtime.invalid", {"device_index": (3,)}),
            ("model.unknown", {"model": "unknown"}),
        ]
        for code, changes in wrong:
            error = await failure(house.edit(runtime, batched=False, **changes))
            assert error.code == code, changes
        assert runtime.preset == before
        await house.use(runtime)
        assert len(puppets.made) == 1


async def test_protection_takes_effect_at_once(open_house: OpenHouse) -> None:
    async with open_house() as house:
        runtime = await house.create()
        await house.edit(runtime, protected=True)
        assert house.manager.view(runtime).protected
        error = await failure(house.manager.delete(runtime))
        assert error.code == "runtime.is_protected" and "--no-protected" in error.fix
        await house.edit(runtime, protected=False)
        await house.manager.delete(runtime)


# Deleting


async def test_deleting_unloads_first(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create(keep_alive=-1)
        await house.use(runtime)
        puppets.may_end = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.manager.delete, runtime)
            await anyio.wait_all_tasks_blocked()
            assert runtime in house.manager.all(), "its worker has not ended yet"
            error = refusal_of_lease(house, runtime)
            assert (error.code, error.data["runtimes"]) == ("runtime.unknown", ["first"])
            assert house.manager.with_model("toy") is not runtime
            puppets.may_end.set()
        assert runtime not in house.manager.all()
        assert (house.events[-1].id, house.events[-1].status) == (runtime.id, "unloaded")
        assert house.events[-1].detail == "deleted"
        assert (await failure(house.manager.delete(runtime))).code == "runtime.unknown"
        house.manager.reload(runtime)  # by a measurement that is unaware of the deletion
        assert (await house.create()).id != runtime.id


async def test_a_runtime_that_could_not_be_deleted_is_unloaded_and_usable(
    open_house: OpenHouse, puppets: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: str) -> None:
        raise an_error("disk.full")

    async with open_house() as house:
        runtime = await house.create()
        await house.use(runtime)
        with monkeypatch.context() as broken:
            broken.setattr(house.store, "delete", refuse)
            assert (await failure(house.manager.delete(runtime))).code == "disk.full"
        assert (house.manager.find("toy"), house.status(runtime)) == (runtime, "unloaded")
        await house.use(runtime)


async def test_a_cancelled_deletion_keeps_the_runtime(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        await house.use(runtime)
        puppets.may_end = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.manager.delete, runtime)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        puppets.may_end.set()
        assert await house.use(runtime) is puppets.made[1]


# History


async def test_the_history_is_limited(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        house.download_error = an_error("hub.down")
        await failure(house.use(runtime))
        await house.manager.unload(runtime)
        house.download_error = None
        await house.use(runtime)
        await house.manager.unload(runtime)
        assert [(moment.status, moment.error and moment.error["code"]) for moment in runtime.history] == [
            ("downloading", None),
            ("failed", "hub.down"),
            ("unloaded", None),
            ("downloading", None),
            ("loading", None),
            ("loaded", None),
            ("unloaded", None),
        ]
        for _ in range(KEPT_STATUS_CHANGES):
            await house.manager.prepare(runtime)
        assert len(runtime.history) == KEPT_STATUS_CHANGES


async def test_the_time_of_the_last_use_is_reported(open_house: OpenHouse, puppets: Puppets) -> None:
    async with open_house() as house:
        runtime = await house.create()
        await house.manager.load(runtime)
        assert house.manager.view(runtime).last_used is None
        await house.use(runtime)
        assert house.manager.view(runtime).last_used is not None
