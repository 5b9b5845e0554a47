"""Admission to memory: which runtimes are evicted for a new one, and the error when that does not help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperd.clock import now_rfc3339
from whisperd.hardware import Gpu, Gpus, Memory
from whisperd.models import ModelStore
from whisperd.models.memory import need_bytes
from whisperd.plugins import Backend, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import RuntimeStatusName
from whisperd.runtimes import Runtime, RuntimePreset
from whisperd.runtimes.admission import Admission, BytesByPlace, free_in
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.life import Life
from whisperd.runtimes.prepare import Prepared
from whisperd.worker.protocol import LoadParams
from whisperd_testing import RunningDaemon, batches, loads, until, write_tone

MB = 1_000_000
OTHER_FILES = 6
"""The size of the other files in a toy model's folder."""
CPU = Variant(name="toy-cpu", lock=None, device="cpu", priority=1, compute_types=("int8",))
CUDA = Variant(name="toy-cuda", lock=None, device="cuda", priority=1, compute_types=("float16",))


@dataclass
class _Loaded:
    memory_bytes: int


def runtime(
    name: str,
    needs: BytesByPlace | None = None,
    *,
    taken: int | None = None,
    unused_since_s: float = 0,
    model: str = "tiny",
) -> Runtime:
    now = now_rfc3339()
    preset = RuntimePreset(id=name, name=name, model=model, device="cuda", created=now, changed=now)
    made = Runtime(preset, needs=needs or {}, unused_since_s=unused_since_s)
    if taken is not None:
        made.loaded = _Loaded(taken)  # type: ignore[assignment]
    return made


@dataclass
class House:
    """The loaded runtimes, and the memory that they leave."""

    admission: Admission
    memory: Memory
    gpu_free: int = 0
    gpus_answer: bool = True
    gpu_queries: int = 0
    tenants: list[Runtime] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    leased_meanwhile: set[str] = field(default_factory=set)
    """The runtimes that become leased while the GPUs are queried."""
    evicted: list[str] = field(default_factory=list)
    on_the_way: set[str] = field(default_factory=set)
    """The runtimes that are being loaded or unloaded."""

    def occupants(self) -> list[Runtime]:
        return self.tenants

    def life(self, one: Runtime) -> Life:
        status: RuntimeStatusName = "loading" if one.name in self.on_the_way else "loaded"
        return Life(status=status, leases=int(one.name in self.busy))

    def evict(self, one: Runtime) -> anyio.Event:
        assert self.life(one).is_idle, "a runtime in use is not evicted"
        self.tenants.remove(one)
        self.evicted.append(one.name)
        assert one.loaded is not None
        self.memory = Memory(self.memory.total, self.memory.available + (one.loaded.memory_bytes or 0))
        self.gpu_free += one.needs.get(0, 0)
        ended = anyio.Event()
        ended.set()
        return ended

    async def admit(self, newcomer: Runtime, need: int, *, on_gpu: int | None = None) -> None:
        backend = Backend(
            name="toy",
            engine="",
            variants=(CPU,),
            need_bytes=lambda *_, device, **__: need if device == "cpu" else on_gpu,
        )
        variant = CPU if on_gpu is None else CUDA
        params = LoadParams(model_path="", device=variant.device, compute_type="int8")
        prepared = Prepared(backend, variant, None, Path.cwd())
        await self.admission.admit(self, newcomer, prepared, params)
        self.tenants.append(newcomer)


def make_house(tmp_path: Path, available: int, *, limit: int = 0, gpu_free: int = 0) -> House:
    async def find_gpus() -> Gpus:
        house.busy |= house.leased_meanwhile
        house.gpu_queries += 1
        gpu = Gpu(0, "toy", 8000 * MB, house.gpu_free, (8, 0))
        return Gpus((gpu,) if house.gpus_answer else ())

    models = ModelStore(tmp_path / "models", sources=())
    admission = Admission(models, Computer(find_gpus), limit=lambda: limit, memory=lambda: house.memory)
    house = House(admission, Memory(total=16_000 * MB, available=available), gpu_free)
    return house


@pytest.mark.anyio
async def test_the_need_of_a_model_is_estimated_from_its_own_files(
    tmp_path: Path, toy: Callable[..., str]
) -> None:
    """Not from the files converted from it, which may be half as large."""
    house, newcomer = make_house(tmp_path, 8000 * MB), runtime("new", model=toy())
    backend = Backend(
        name="toy", engine="", variants=(CPU,), need_bytes=lambda parameters, *_, **__: parameters
    )
    params = LoadParams(model_path="", device="cpu", compute_type="int8")
    (tmp_path / "made").mkdir()
    await house.admission.admit(house, newcomer, Prepared(backend, CPU, None, tmp_path / "made"), params)
    size_bytes = sum(path.stat().st_size for path in Path(newcomer.preset.model).iterdir())
    assert newcomer.needs == {None: size_bytes / 2}


@pytest.mark.anyio
@pytest.mark.parametrize(("is_unconverted", "need"), [(False, 1100 * MB), (True, 1808 * MB)])
async def test_an_unconverted_model_needs_more_memory_to_load(
    tmp_path: Path, is_unconverted: bool, need: int
) -> None:
    """The library converts its floats to integers, and holds both at once."""
    house, newcomer = make_house(tmp_path, 8000 * MB), runtime("new", model="large-v3-turbo")
    backend = Backend(name="toy", engine="", variants=(CPU,), need_bytes=lambda *_, **__: 1100 * MB)
    params = LoadParams(model_path="", device="cpu", compute_type="int8")
    prepared = Prepared(backend, CPU, None, Path.cwd(), is_unconverted=is_unconverted)
    await house.admission.admit(house, newcomer, prepared, params)
    assert newcomer.needs == {None: need}


@pytest.mark.anyio
async def test_a_small_decoder_is_recognised_by_the_models_name(tmp_path: Path) -> None:
    house, newcomer = make_house(tmp_path, 8000 * MB), runtime("new", model="large-v3-turbo")
    params = LoadParams(model_path="", device="cpu", compute_type="int8")
    prepared = Prepared(Backend(name="toy", engine="", variants=(CPU,)), CPU, None, Path.cwd())
    await house.admission.admit(house, newcomer, prepared, params)
    assert newcomer.needs[None] < need_bytes(809 * MB) / 2


@pytest.mark.anyio
async def test_no_runtime_is_evicted_while_there_is_room(tmp_path: Path) -> None:
    house = make_house(tmp_path, 2000 * MB)
    house.tenants = [runtime("idle", {None: 500 * MB}, taken=500 * MB)]
    await house.admit(runtime("new"), 1500 * MB)
    assert house.evicted == []
    assert house.tenants[-1].needs == {None: 1500 * MB}


@pytest.mark.anyio
async def test_the_least_recently_used_are_evicted_first_and_the_busy_stay(tmp_path: Path) -> None:
    house = make_house(tmp_path, 100 * MB)
    house.tenants = [
        runtime("busy", {None: 500 * MB}, taken=500 * MB, unused_since_s=1),
        runtime("late", {None: 500 * MB}, taken=500 * MB, unused_since_s=3),
        runtime("early", {None: 500 * MB}, taken=500 * MB, unused_since_s=2),
    ]
    house.busy = {"busy"}
    await house.admit(runtime("new"), 600 * MB)
    assert house.evicted == ["early"]
    house.busy |= {"new"}
    house.memory = Memory(house.memory.total, 600 * MB)  # exactly what `new` will still take
    await house.admit(runtime("newer"), 500 * MB)
    assert house.evicted == ["early", "late"]


@pytest.mark.anyio
async def test_no_runtime_is_evicted_in_vain(tmp_path: Path) -> None:
    house = make_house(tmp_path, 100 * MB)
    house.tenants = [runtime("idle", {None: 500 * MB}, taken=500 * MB)]
    with pytest.raises(WhisperdError) as raised:
        await house.admit(runtime("new"), 700 * MB)
    assert house.evicted == []
    error = raised.value
    assert error.code == "memory.not_enough"
    assert error.data == {"needed": 700 * MB, "free": 600 * MB, "largest": error.data["largest"]}
    assert "new needs about 700 MB" in error.message
    assert error.data["largest"] in ("tiny", "base") and "unload other runtimes" in error.fix
    assert "runtimes edit new" in error.fix
    assert "runtime.memory_bytes" not in error.fix
    once = runtime("once")
    once.is_saved = False
    with pytest.raises(WhisperdError) as raised:
        await house.admit(once, 700 * MB)
    assert "runtimes edit" not in raised.value.fix


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("chosen", "available", "expected"),
    [
        ({}, 12_000 * MB, (16, 1)),
        ({}, 3000 * MB, (4, 4)),
        ({}, 700 * MB, (1, 16)),
        ({}, 600 * MB, None),
        ({"cpu_threads": 1}, 3000 * MB, (4, 1)),
        ({"workers": 16}, 3000 * MB, None),
    ],
)
async def test_there_are_as_many_workers_as_fit(
    tmp_path: Path, chosen: dict[str, int], available: int, expected: tuple[int, int] | None
) -> None:
    """With one per core, a computer with many cores has too little memory for most models."""
    house, newcomer = make_house(tmp_path, available), runtime("new")
    newcomer.preset = msgspec.structs.replace(newcomer.preset, **chosen)
    backend = Backend(
        name="toy", engine="", variants=(CPU,), need_bytes=lambda *_, replicas, **__: replicas * 700 * MB
    )
    prepared = Prepared(backend, CPU, None, Path.cwd())
    params = LoadParams(model_path="", replicas=16)
    if expected is None:
        with pytest.raises(WhisperdError) as raised:
            await house.admission.admit(house, newcomer, prepared, params)
        assert raised.value.data["needed"] == (16 if chosen else 1) * 700 * MB
    else:
        admitted = await house.admission.admit(house, newcomer, prepared, params)
        assert (admitted.replicas, admitted.cpu_threads) == expected
        assert newcomer.needs == {None: admitted.replicas * 700 * MB}


@pytest.mark.anyio
async def test_memory_promised_to_loaded_runtimes_is_not_free(tmp_path: Path) -> None:
    house = make_house(tmp_path, 1000 * MB)
    house.tenants = [runtime("loading", {None: 800 * MB})]
    house.busy = {"loading"}
    with pytest.raises(WhisperdError, match=r"200 MB is free"):
        await house.admit(runtime("new"), 500 * MB)


@pytest.mark.anyio
@pytest.mark.parametrize("then", ["it is in", "it is gone", "it is in, and larger"])
async def test_admission_waits_for_other_loads_and_unloads(tmp_path: Path, then: str) -> None:
    """Memory that a loading runtime has taken is no longer free, but still counts as promised to it."""
    other = runtime("other", {None: 500 * MB})
    house = make_house(tmp_path, 600 * MB)
    house.tenants, house.busy, house.on_the_way = [other], {"other"}, {"other"}
    refused: list[WhisperdError] = []

    async def admit() -> None:
        try:
            await house.admit(runtime("new"), 550 * MB)
        except WhisperdError as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(admit)
        await anyio.wait_all_tasks_blocked()
        assert not refused and house.tenants == [other]
        await house.admit(runtime("small"), 50 * MB)  # which need not wait
        house.tenants.remove(house.tenants[-1])
        if then == "it is gone":
            house.tenants.remove(other)
        else:
            other.loaded = _Loaded(500 * MB)  # type: ignore[assignment]
        if then == "it is in, and larger":
            house.memory = Memory(house.memory.total, 400 * MB)
        house.on_the_way.remove("other")
        other.changed.set()
    assert bool(refused) == (then == "it is in, and larger")


@pytest.mark.anyio
async def test_concurrent_admissions_do_not_share_the_same_memory(tmp_path: Path) -> None:
    house = make_house(tmp_path, 1000 * MB)
    house.busy = {"one", "two"}
    refused: list[WhisperdError] = []

    async def admit(name: str) -> None:
        try:
            await house.admit(runtime(name), 600 * MB)
        except WhisperdError as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(admit, "one")
        tasks.start_soon(admit, "two")
    assert [error.code for error in refused] == ["memory.not_enough"]


@pytest.mark.anyio
async def test_the_limit_for_all_runtimes_together(tmp_path: Path) -> None:
    house = make_house(tmp_path, 10_000 * MB, limit=1000 * MB)
    house.tenants = [runtime("idle", {None: 600 * MB}, taken=300 * MB)]
    await house.admit(runtime("new"), 500 * MB)
    assert house.evicted == ["idle"]
    with pytest.raises(WhisperdError) as raised:
        await house.admit(runtime("large"), 1500 * MB)
    assert "runtime.memory_bytes" in raised.value.fix, "closing other programs would not help"


@pytest.mark.anyio
async def test_a_gpu_has_its_own_memory(tmp_path: Path) -> None:
    house = make_house(tmp_path, 10_000 * MB, gpu_free=1000 * MB)
    house.tenants = [
        runtime("on the processor", {None: 500 * MB}, taken=500 * MB),
        runtime("on the gpu", {None: 500 * MB, 0: 2000 * MB}, taken=500 * MB),
    ]
    await house.admit(runtime("new"), 0, on_gpu=2500 * MB)
    assert house.evicted == ["on the gpu"]
    with pytest.raises(WhisperdError) as raised:
        await house.admit(runtime("newer"), 0, on_gpu=9000 * MB)
    assert raised.value.code == "memory.gpu_not_enough"


@pytest.mark.anyio
async def test_a_runtime_on_the_processor_does_not_wait_for_the_gpus(tmp_path: Path) -> None:
    house = make_house(tmp_path, 2000 * MB)
    house.tenants = [runtime("on the gpu", {None: 500 * MB, 0: 2000 * MB}, taken=500 * MB)]
    await house.admit(runtime("new"), 1500 * MB)
    assert (house.evicted, house.gpu_queries) == ([], 0)


@pytest.mark.anyio
async def test_only_its_gpu_memory_is_freed_on_the_gpu(tmp_path: Path) -> None:
    house = make_house(tmp_path, 10_000 * MB, gpu_free=1000 * MB)
    house.tenants = [runtime("idle", {None: 500 * MB, 0: 2000 * MB}, taken=2500 * MB)]
    with pytest.raises(WhisperdError, match=r"3\.00 GB is free") as raised:
        await house.admit(runtime("new"), 0, on_gpu=3100 * MB)
    assert raised.value.code == "memory.gpu_not_enough"


@pytest.mark.anyio
async def test_gpu_memory_promised_to_a_runtime_being_loaded_is_not_free(tmp_path: Path) -> None:
    house = make_house(tmp_path, 10_000 * MB, gpu_free=2500 * MB)
    house.tenants = [runtime("loading", {None: 500 * MB, 0: 2000 * MB})]
    house.busy = {"loading"}
    with pytest.raises(WhisperdError, match=r"500 MB is free"):
        await house.admit(runtime("new"), 0, on_gpu=600 * MB)


@pytest.mark.anyio
async def test_a_runtime_that_is_loaded_again_replaces_itself(tmp_path: Path) -> None:
    again = runtime("again", {None: 800 * MB})
    house = make_house(tmp_path, 1000 * MB)
    house.tenants, house.busy = [again], {"again"}
    await house.admit(again, 900 * MB)
    assert again.needs == {None: 900 * MB}


@pytest.mark.anyio
@pytest.mark.parametrize(("replicas", "on_each"), [(1, 1), (2, 1), (4, 2)])
async def test_workers_are_divided_among_the_gpus(tmp_path: Path, replicas: int, on_each: int) -> None:
    house, newcomer = make_house(tmp_path, 10_000 * MB, gpu_free=1000 * MB), runtime("new")
    backend = Backend(
        name="toy", engine="", variants=(CUDA,), need_bytes=lambda *_, replicas, **__: replicas * 400 * MB
    )
    params = LoadParams(model_path="", device="cuda", device_index=(0, 1), replicas=replicas)
    await house.admission.admit(house, newcomer, Prepared(backend, CUDA, None, Path.cwd()), params)
    assert (newcomer.needs[0], newcomer.needs[1]) == (on_each * 400 * MB, on_each * 400 * MB)


@pytest.mark.anyio
async def test_a_gpu_that_does_not_answer_counts_as_free(tmp_path: Path) -> None:
    house = make_house(tmp_path, 10_000 * MB)
    house.gpus_answer = False
    await house.admit(runtime("new"), 0, on_gpu=2500 * MB)
    assert house.tenants[0].needs[0] == 2500 * MB


@pytest.mark.anyio
async def test_a_runtime_leased_while_the_gpus_are_queried_is_not_evicted(tmp_path: Path) -> None:
    house = make_house(tmp_path, 10_000 * MB, gpu_free=1000 * MB)
    house.tenants = [
        runtime("early", {0: 2000 * MB}, taken=500 * MB, unused_since_s=1),
        runtime("late", {0: 2000 * MB}, taken=500 * MB, unused_since_s=2),
    ]
    house.leased_meanwhile = {"early"}
    await house.admit(runtime("new"), 0, on_gpu=2500 * MB)
    assert house.evicted == ["late"]


@given(
    free=st.integers(0, 100),
    limit=st.integers(0, 100),
    there=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=5),
)
def test_free_memory_is_never_counted_twice(free: int, limit: int, there: list[tuple[int, int]]) -> None:
    occupants = [runtime("one", {None: need}, taken=taken) for need, taken in there]
    left = free_in({None: free}, limit, occupants)[None]
    assert left <= free
    still_to_come = sum(max(0, need - taken) for need, taken in there)
    assert left <= free - still_to_come
    if limit:
        assert left <= limit - sum(max(pair) for pair in there)


# Through the socket


def of_size(model: str, size: int) -> str:
    """Give a toy model a sparse file of this size; the toy needs as much memory."""
    with (Path(model) / "model.bin").open("r+b") as file:
        file.truncate(size)
    return model


@pytest.mark.real
def test_idle_runtimes_make_room_for_another(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tmp_path: Path
) -> None:
    daemon = make_daemon()
    daemon.settings("[runtime]\nmemory_bytes = 1_000_000_000\nworkers = 1\n")
    daemon.start()
    sound = write_tone(tmp_path / "tone.wav", 2.0)
    names = ["first", "second", "third", "huge"]
    models = {name: of_size(toy(name), 400 * MB if name != "huge" else 2000 * MB) for name in names}
    with daemon.connect() as client:
        for name in names:
            client.runtimes.create(name, model=models[name])

        def loaded() -> set[str]:
            return {one["name"] for one in client.runtimes.list() if one["status"] == "loaded"}

        client.transcribe(sound, runtime="first", vad=False)
        client.transcribe(sound, runtime="second", vad=False)
        client.transcribe(sound, runtime="first", vad=False)
        client.transcribe(sound, runtime="third", vad=False)
        assert loaded() == {"first", "third"}, "`second` was unused for longer"
        with pytest.raises(WhisperdError) as raised:
            client.transcribe(sound, runtime="huge", vad=False)
        assert (raised.value.code, raised.value.data["needed"]) == (
            "memory.not_enough",
            2000 * MB + OTHER_FILES,
        )
        assert client.runtimes.show("huge")["error"]["code"] == "memory.not_enough"
        assert loaded() == {"first", "third"}, "none is evicted for a model that cannot fit anyway"


@pytest.mark.real
def test_leased_runtimes_and_the_default_are_not_evicted(
    make_daemon: Callable[..., RunningDaemon], toy: Callable[..., str], tmp_path: Path
) -> None:
    daemon = make_daemon()
    daemon.settings("[runtime]\nmemory_bytes = 1_000_000_000\nworkers = 1\n")
    daemon.start()
    sound = write_tone(tmp_path / "tone.wav", 2.0)
    models = {name: of_size(toy(name), 400 * MB) for name in ("default", "leased", "new")}
    (Path(models["leased"]) / "hold").touch()
    with daemon.connect() as client:
        for name, model in models.items():
            client.runtimes.create(name, model=model)
        client.runtimes.default("default")
        client.runtimes.load("default")
        job = client.submit(sound, runtime="leased", vad=False)
        until(lambda: batches(models["leased"]))
        with pytest.raises(WhisperdError) as raised:
            client.transcribe(sound, runtime="new", vad=False)
        assert raised.value.code == "memory.not_enough"
        (Path(models["leased"]) / "hold").unlink()
        client.jobs.wait(job)
        client.transcribe(sound, runtime="new", vad=False)
        assert len(loads(models["default"])) == 1
