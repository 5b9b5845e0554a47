"""Two hundred clients do as they like with ten runtimes, whose loads take random times and fail at times.

All that they are told has to be in order at every step, and in the end the daemon has the memory and the
file descriptors that it began with. `make torture` does it for a minute. Which client does what follows
from a seed, which is told when something fails; who comes first does not.
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
"""Seconds of the long round. The short one is measured in actions: a slow machine does as much."""
CLIENTS = 200
RUNTIMES = 10
WARM_UP_ACTIONS = 300
ACTIONS = 700

GROWTH_BYTES = 8 * 2**20
"""What the memory may differ before and after: pages that are kept for little, twice what was seen in ten
rounds one after the other. It does not grow with the rounds; what is lost with each client or job would."""

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
"""How the loads of these models may end for those who wait."""
NAMING_CODES = {"runtime.unknown", "runtime.disabled"}
"""What may happen to who names a runtime."""
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


def test_whatever_they_do(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> None:
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
    """All that happens to one daemon."""

    def __init__(self, daemon: RunningDaemon, folder: Path) -> None:
        self._daemon = daemon
        self._models = [str(path) for path in _models(folder / "models")]
        self._sound = write_tone(folder / "tone.wav", 1.0)
        self._known: list[Map] = []
        """The saved runtimes, as they were told last."""
        self.tally: Counter[str] = Counter()
        """What was done, and how it ended."""

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
        """All clients at once, and somebody who watches."""
        async with open_task_group() as watching:
            watching.start_soon(self._watch)
            async with open_task_group() as clients:
                for number in range(CLIENTS):
                    clients.start_soon(self._client, Random(f"{SEED} {name} {number}"), budget)
            watching.cancel_scope.cancel()

    async def _client(self, random: Random, budget: Budget) -> None:
        """One who does this and that, and comes back when it has hung up."""
        while budget.take():
            async with self._connected() as client:
                has_hung_up = await self._act(client, random)
                while not has_hung_up and budget.take():
                    has_hung_up = await self._act(client, random)

    async def _act(self, client: AsyncClient, random: Random) -> bool:
        (name,) = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        action = Actions(self, client, random)
        with self._told(name), not_hanging(name):
            await getattr(action, name)()
        return name == "hang_up"

    @contextmanager
    def _told(self, action: str) -> Iterator[None]:
        """An action may be refused, but for no other reason than it can have."""
        try:
            yield
        except WhisperdError as error:
            assert error.code in ACTION_CODES[action], (action, error.to_wire())
            assert error.message and error.fix
            self.tally[f"{action}: {error.code}"] += 1
        else:
            self.tally[action] += 1

    async def _watch(self) -> None:
        """Ask again and again; each process that is told of has to be there."""
        async with self._connected() as client:
            while True:
                told = self._checked(await client.runtimes.list())
                missing = {one["id"]: one["pid"] for one in told if self._is_dead(one)}
                if missing:  # unless it has ended since, and that is told
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
        """What has to hold of every list, whenever it is asked for."""
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
        """How many descriptors and bytes of memory it has once all is unloaded but the default."""
        with not_hanging("settling"):
            await self._unload_all(client)
        process = psutil.Process(self._daemon.pid)
        until(lambda: len(self._daemon.workers()) == 1, "all workers but the default's to end")
        # Beside it a decoder stands ready; the others end.
        until(lambda: len(self._daemon.children()) == 2, "all decoders but one to end")
        until(lambda: descriptors in (None, process.num_fds()), f"{descriptors} descriptors to be left")
        runtimes = self._checked(await client.runtimes.list())
        assert [one["pid"] for one in runtimes if one["pid"]] == [self._daemon.workers()[0].pid]
        return process.num_fds(), self._memory()

    def _memory(self) -> int:
        """Bytes that are the daemon's alone, when it has given back what it can."""
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
        except WhisperdError as error:  # it was made for once, and has just ended by itself
            assert (error.code, runtime["saved"]) == ("runtime.unknown", False)


class Actions:
    """What a client may do. Each raises the daemon's refusal."""

    def __init__(self, torture: Torture, client: AsyncClient, random: Random) -> None:
        self._torture = torture
        self._client = client
        self._random = random

    @property
    def _runtime(self) -> str:
        """Any of them, by name or id, as far as is known: it may be another one's or nobody's by now."""
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
        """Delete one and make another."""
        await self._client.runtimes.delete(self._runtime)
        name = f"r{self._random.randrange(2 * RUNTIMES)}"
        keep_alive = self._random.choice((0, 0.1, "1h"))
        while True:  # there are always as many as before
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
        """Go in the middle of something."""
        wanted = self._random.choice((self._submit, self.load, self.prepare, self.edit, self.replace))
        with anyio.move_on_after(self._random.choice((0.01, 0.05, 0.2))):
            try:
                await wanted()
            except WhisperdError as error:
                assert (
                    error.code in ACTION_CODES["edit"] | ACTION_CODES["replace"] | ACTION_CODES["transcribe"]
                )

    async def _submit(self) -> str:
        """Ask for a job in one of the ways in which its runtime is chosen."""
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
            assert by == "runtime", f"nothing named it, yet: {error.to_wire()}"
            raise

    async def _follow(self, job: str) -> None:
        """A job ends once and in one way; one that has begun has its runtime to the end."""
        async with aclosing(self._client.follow(job)) as following:
            types = [event["type"] async for event in following]
        assert [type for type in types if type in ENDS] == types[-1:], types
        if "job.started" in types:
            assert types[-1] == "transcription.completed", types
        else:
            assert types[-1] == "transcription.failed", types
            await self._client.jobs.wait(job)


def _models(folder: Path) -> Iterator[Path]:
    """The first can be relied on; the others take their time, and some fail at times."""
    for number in range(RUNTIMES):
        yield toy_model(
            folder / f"model{number}",
            load_s_between=[0, 0.05 * number],
            load_fails=0.3 if number % 3 == 1 else 0,
            window_s=0.01 * (number % 4),
            seed=f"{SEED} {number}",
        )


def _is_ready(runtime: Map) -> bool:
    """Whether its worker is there, and was not told to end."""
    return runtime["status"] == "loaded" and runtime["detail"] != "unloading"


def _active(jobs: Map) -> Iterator[int]:
    return (count for status, count in jobs.items() if status in ("queued", "running"))
