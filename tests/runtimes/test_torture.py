"""Two hundred clients act at random on ten runtimes, whose loads take random times and sometimes fail.

Every answer must be consistent, and at the end the daemon must have the memory and the file descriptors that
it started with. `make torture` runs this for a minute. The clients' actions follow from a seed, which is
printed on failure; their order does not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import psutil
import pytest

from crowd import Budget, not_hanging
from whisperd.client import AsyncClient, aconnect
from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import open_task_group
from whisperd_testing import TESTS, RunningDaemon, toy_model, until, write_tone

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="counts file descriptors, and sends a signal"),
]

Map = dict[str, Any]

SEED = os.environ.get("WHISPERD_TORTURE_SEED", "1")
LONG_S = float(os.environ.get("WHISPERD_TORTURE_S", "0"))
"""Seconds of the long round. The short one is a number of actions, so that slow machines do as much."""
CLIENTS = 200
RUNTIMES = 10
WARM_UP_ACTIONS = 300
ACTIONS = 700

GROWTH_BYTES = 8 * 2**20
"""The allowed difference in memory: sparsely used pages that are kept, twice what ten rounds in a row showed.
It does not grow with the number of rounds; a leak per client or job would."""

SETTINGS = """
[jobs]
keep_count = 100
[decoder]
processes = 1
[log]
max_bytes = 100_000_000
"""

HOSTED = ("downloading", "loading", "loaded")
ENDS = {
    "transcription.completed": "completed",
    "transcription.failed": "failed",
    "transcription.cancelled": "cancelled",
}
LOAD_CODES = {"model.load_failed", "runtime.cancelled"}
"""The errors that waiters for these models may get."""
NAMING_CODES = {"runtime.unknown", "runtime.disabled"}
"""The errors that a request with a runtime's name may get."""
ACTION_CODES = {
    "list": set[str](),
    "show": {"runtime.unknown"},
    "load": LOAD_CODES | NAMING_CODES,
    "prepare": LOAD_CODES | NAMING_CODES,
    "cancel": {"runtime.unknown"},
    "unload": {"runtime.unknown", "runtime.in_use", "runtime.is_default"},
    "default": NAMING_CODES,
    "enable": {"runtime.unknown"},
    "disable": {"runtime.unknown", "runtime.is_default"},
    "edit": {"runtime.unknown", "runtime.stale", "runtime.exists", "runtime.invalid", "cuda.not_available"},
    "replace": {
        "runtime.unknown",
        "runtime.exists",
        "runtime.in_use",
        "runtime.is_default",
        "runtime.is_protected",
    },
    "transcribe": LOAD_CODES | NAMING_CODES | {"job.cancelled"},
    "hang_up": LOAD_CODES | NAMING_CODES,
}
WEIGHTS = {
    "list": 2, "show": 1, "load": 3, "prepare": 1, "cancel": 2, "unload": 2, "default": 2, "enable": 2,
    "disable": 1, "edit": 3, "replace": 1, "transcribe": 6, "hang_up": 2,
}  # fmt: skip


def test_random_clients_leave_the_daemon_in_order(
    make_daemon: Callable[..., RunningDaemon], tmp_path: Path
) -> None:
    paths = f"{TESTS / 'backends'}{os.pathsep}{TESTS}"
    env = {"WHISPERD_PRELOAD": "0", "PYTHONPATH": paths, "TIDY": str(tmp_path / "tidy")}
    daemon = make_daemon(env=env, program=("tidy_daemon",))
    daemon.settings(SETTINGS)
    daemon.start()
    torture = Torture(daemon, tmp_path)
    try:
        anyio.run(torture.run)
    except BaseException as error:
        error.add_note(f"WHISPERD_TORTURE_SEED={SEED}\n{torture.tally}\n{daemon.log()[-4000:]}")
        raise
    print(torture.tally)
    assert daemon.process is not None and daemon.process.poll() is None
    log = "".join(path.read_text() for path in (daemon.folder / "state").glob("daemon.log*"))
    assert "Traceback" not in log and "unexpectedly" not in log and "internal.error" not in log


class Torture:
    """Everything that happens to one daemon."""

    def __init__(self, daemon: RunningDaemon, folder: Path) -> None:
        self._daemon = daemon
        self._models = [str(path) for path in _models(folder / "models")]
        self._sound = write_tone(folder / "tone.wav", 1.0)
        self._known: list[Map] = []
        """The saved runtimes, as last listed."""
        self.tally: Counter[str] = Counter()
        """Counts of actions by their outcome."""

    async def run(self) -> None:
        async with self._connected() as client:
            await self._make_runtimes(client)
            await self._round("warm-up", Budget(WARM_UP_ACTIONS))
            before = await self._settled(client)
            await self._round("round", Budget(ACTIONS, LONG_S))
            after = await self._settled(client, before[0])
        self.tally["MB of memory before"] = before[1] // 2**20
        self.tally["kB of memory more"] = (after[1] - before[1]) // 2**10
        assert after[1] - before[1] < GROWTH_BYTES

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncClient]:
        async with aconnect(self._daemon.socket, start=False) as client:
            yield client

    async def _make_runtimes(self, client: AsyncClient) -> None:
        (first,) = await client.runtimes.list()
        for number in range(RUNTIMES):
            await client.runtimes.create(
                f"r{number}", self._models[number], backend="toy", keep_alive=0.2 * number
            )
        await client.runtimes.default("r0")
        await client.runtimes.delete(first["name"])
        self._known = self._checked(await client.runtimes.list())

    async def _round(self, name: str, budget: Budget) -> None:
        """Run all clients at once, and a watcher."""
        async with open_task_group() as watching:
            watching.start_soon(self._watch)
            async with open_task_group() as clients:
                for number in range(CLIENTS):
                    clients.start_soon(self._client, Random(f"{SEED} {name} {number}"), budget)
            watching.cancel_scope.cancel()

    async def _client(self, random: Random, budget: Budget) -> None:
        """Act at random, reconnecting after each hang-up."""
        while budget.take():
            async with self._connected() as client:
                has_hung_up = await self._act(client, random)
                while not has_hung_up and budget.take():
                    has_hung_up = await self._act(client, random)

    async def _act(self, client: AsyncClient, random: Random) -> bool:
        (name,) = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        action = Actions(self, client, random)
        with self._tallied(name), not_hanging(name):
            await getattr(action, name)()
        return name == "hang_up"

    @contextmanager
    def _tallied(self, action: str) -> Iterator[None]:
        """Tally an action, which may be refused only for its own reasons."""
        try:
            yield
        except WhisperdError as error:
            assert error.code in ACTION_CODES[action], (action, error.to_wire())
            assert error.message and error.fix
            self.tally[f"{action}: {error.code}"] += 1
        else:
            self.tally[action] += 1

    async def _watch(self) -> None:
        """List the runtimes repeatedly; each reported process must exist."""
        async with self._connected() as client:
            while True:
                told = self._checked(await client.runtimes.list())
                missing = {one["id"]: one["pid"] for one in told if self._is_dead(one)}
                if missing:  # unless it has ended since, and this is reported
                    again = self._checked(await client.runtimes.list())
                    assert not [
                        one for one in again if missing.get(one["id"], 0) == one["pid"] and self._is_dead(one)
                    ]
                self.tally["watched"] += 1

    def _is_dead(self, runtime: Map) -> bool:
        if not _is_ready(runtime):
            return False
        try:
            worker = psutil.Process(runtime["pid"])
            return worker.ppid() != self._daemon.pid or worker.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def _checked(self, runtimes: list[Map]) -> list[Map]:
        """Check what must hold for every list."""
        saved = [one for one in runtimes if one["saved"]]
        (default,) = [one for one in runtimes if one["default"]]
        assert default["saved"] and default["enabled"]
        pids = [one["pid"] for one in runtimes if one["pid"] is not None]
        for values in ([one["id"] for one in runtimes], [one["name"] for one in saved], pids):
            assert len(values) == len(set(values))
        for one in runtimes:
            assert one["leases"] >= 0
            assert (one["pid"] is None and one["loaded"] is None) or one["status"] == "loaded", one
            assert one["error"] is not None or one["status"] != "failed", one
            if _is_ready(one):
                assert one["pid"] and one["loaded"] and one["variant"], one
                assert one["enabled"] or one["leases"], one
        self._known = saved
        return runtimes

    async def _settled(self, client: AsyncClient, descriptors: int | None = None) -> tuple[int, int]:
        """Return the numbers of descriptors and of bytes of memory once all but the default are unloaded."""
        with not_hanging("settling"):
            await self._unload_all(client)
        process = psutil.Process(self._daemon.pid)
        until(lambda: len(self._daemon.workers()) == 1, "all workers but the default's to end")
        # Besides it, one decoder stays ready; the others end.
        until(lambda: len(self._daemon.children()) == 2, "all decoders but one to end")
        until(lambda: descriptors in (None, process.num_fds()), f"{descriptors} descriptors to be left")
        runtimes = self._checked(await client.runtimes.list())
        assert [one["pid"] for one in runtimes if one["pid"]] == [self._daemon.workers()[0].pid]
        return process.num_fds(), self._memory()

    def _memory(self) -> int:
        """Return the bytes used by the daemon alone, after it has released what it can."""
        tidy = Path(self._daemon.env["TIDY"])
        tidy.unlink(missing_ok=True)
        self._daemon.signal(signal.SIGUSR2)
        until(tidy.exists, "the daemon to tidy up")
        return int(psutil.Process(self._daemon.pid).memory_full_info().uss)

    async def _unload_all(self, client: AsyncClient) -> None:
        while (status := await client.daemon.status())["clients"] > 1 or any(_active(status["jobs"])):
            await anyio.sleep(0.01)
        runtimes = self._checked(await client.runtimes.list())
        assert [one["leases"] for one in runtimes] == [0] * len(runtimes)
        for one in runtimes:
            if one["default"]:
                await client.runtimes.edit(one["id"], model=self._models[0])
                assert (await client.runtimes.load(one["id"]))["status"] == "loaded"
            elif one["saved"] or one["status"] in HOSTED:
                await self._ended(client.runtimes.unload, one)
        for one in self._checked(await client.runtimes.list()):
            assert one["default"] or one["status"] not in HOSTED, one

    async def _ended(self, unload: Callable[[str], Awaitable[Map]], runtime: Map) -> None:
        try:
            assert (await unload(runtime["id"]))["status"] == "unloaded"
        except WhisperdError as error:  # a temporary runtime that has just ended
            assert (error.code, runtime["saved"]) == ("runtime.unknown", False)


class Actions:
    """The actions of a client. Each raises the daemon's refusal."""

    def __init__(self, torture: Torture, client: AsyncClient, random: Random) -> None:
        self._torture = torture
        self._client = client
        self._random = random

    @property
    def _runtime(self) -> str:
        """The name or id of any known runtime: by now it may belong to another one or to none."""
        runtime = self._random.choice(self._torture._known)
        return str(runtime[self._random.choice(("name", "id"))])

    async def list(self) -> None:
        self._torture._checked(await self._client.runtimes.list())

    async def show(self) -> None:
        shown = await self._client.runtimes.show(self._runtime)
        if shown["history"]:
            assert shown["history"][-1]["status"] == shown["status"], shown

    async def load(self) -> None:
        assert (await self._client.runtimes.load(self._runtime))["status"] == "loaded"

    async def prepare(self) -> None:
        assert (await self._client.runtimes.prepare(self._runtime))["variant"] == "toy-cpu"

    async def cancel(self) -> None:
        await self._client.runtimes.cancel(self._runtime)

    async def unload(self) -> None:
        await self._client.runtimes.unload(self._runtime)

    async def default(self) -> None:
        assert (await self._client.runtimes.default(self._runtime))["default"]

    async def enable(self) -> None:
        assert (await self._client.runtimes.enable(self._runtime))["enabled"]

    async def disable(self) -> None:
        await self._client.runtimes.disable(self._runtime)

    async def edit(self) -> None:
        changes: list[Map] = [
            {"model": self._random.choice(self._torture._models)},
            {"backend": self._random.choice(("toy", "abacus"))},
            {"device": self._random.choice(("auto", "cpu", "abacus"))},
            {"device_index": self._random.choice(([], [99]))},
            {"compute_type": self._random.choice(("auto", "int8", "float16"))},
            {"cpu_threads": self._random.randrange(4)},
            {"workers": self._random.randrange(-1, 4)},
            {"batched": self._random.random() < 0.5},
            {"batch_size": self._random.randrange(5)},
            {"keep_alive": self._random.choice((0, 0.05, "1s", "never", "soon"))},
            {"protected": self._random.random() < 0.2},
            {"name": f"r{self._random.randrange(2 * RUNTIMES)}"},
        ]
        version = self._random.choice((None, None, None, 1))
        await self._client.runtimes.edit(self._runtime, version=version, **self._random.choice(changes))

    async def replace(self) -> None:
        """Delete a runtime and create another."""
        await self._client.runtimes.delete(self._runtime)
        name = f"r{self._random.randrange(2 * RUNTIMES)}"
        keep_alive = self._random.choice((0, 0.1, "1h"))
        while True:  # keep their number constant
            try:
                made = await self._client.runtimes.create(
                    name,
                    self._random.choice(self._torture._models),
                    backend="toy",
                    keep_alive=keep_alive,
                )
            except WhisperdError as error:
                assert error.code == "runtime.exists", error.to_wire()
                name = f"r{self._random.randrange(2 * RUNTIMES)}"
            else:
                assert (made["status"], made["version"], made["keep_alive"]) != ("loaded", 2, -1)
                return

    async def transcribe(self) -> None:
        job = await self._submit()
        if self._random.random() < 0.2:
            await anyio.sleep(self._random.choice((0, 0.05, 0.2)))
            assert (await self._client.jobs.cancel(job))["status"] in ENDS.values()
        elif self._random.random() < 0.5:
            assert (await self._client.jobs.wait(job))["text"] == "transcribe 1.00 s"
        else:
            await self._follow(job)

    async def hang_up(self) -> None:
        """Disconnect in the middle of an action."""
        wanted = self._random.choice((self._submit, self.load, self.prepare, self.edit, self.replace))
        with anyio.move_on_after(self._random.choice((0.01, 0.05, 0.2))):
            try:
                await wanted()
            except WhisperdError as error:
                assert (
                    error.code in ACTION_CODES["edit"] | ACTION_CODES["replace"] | ACTION_CODES["transcribe"]
                )

    async def _submit(self) -> str:
        """Submit a job that chooses its runtime in one of the possible ways."""
        by = self._random.choice(("runtime", "runtime", "model", "default"))
        choice: Map = {}
        if by == "runtime":
            choice = {"runtime": self._runtime}
        elif by == "model":
            choice = {"model": self._random.choice(self._torture._models)}
        priority = self._random.choice(("normal", "normal", "bulk"))
        try:
            return await self._client.submit(self._torture._sound, vad=False, priority=priority, **choice)
        except WhisperdError as error:
            assert by == "runtime", f"the job named no runtime, yet: {error.to_wire()}"
            raise

    async def _follow(self, job: str) -> None:
        """Check that a job ends exactly once, and that a started job keeps its runtime to the end."""
        async with aclosing(self._client.follow(job)) as following:
            types = [event["type"] async for event in following]
        assert [type for type in types if type in ENDS] == types[-1:], types
        if "job.started" in types:
            assert types[-1] == "transcription.completed", types
        else:
            assert types[-1] == "transcription.failed", types
            await self._client.jobs.wait(job)


def _models(folder: Path) -> Iterator[Path]:
    """Make the models: the first is reliable; the others take their time, and some fail at times."""
    for number in range(RUNTIMES):
        yield toy_model(
            folder / f"model{number}",
            load_s_between=[0, 0.05 * number],
            load_fails=0.3 if number % 3 == 1 else 0,
            window_s=0.01 * (number % 4),
            seed=f"{SEED} {number}",
        )


def _is_ready(runtime: Map) -> bool:
    """Whether its worker is up and was not told to end."""
    return runtime["status"] == "loaded" and runtime["detail"] != "unloading"


def _active(jobs: Map) -> Iterator[int]:
    return (count for status, count in jobs.items() if status in ("queued", "running"))
