"""Two dozen clients act at random on the same few jobs, watches, profiles, models and runtimes.

Each may name an object that another is deleting, and may disconnect at any time. Whatever they do, they get
correct answers and never an internal error; in the end the database agrees with what the daemon reports.
`make torture` runs it for a minute. The seed, printed on failure, determines each client's actions, but not
the order in which they interleave.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from crowd import Budget, not_hanging
from whisperd.client import AsyncClient, aconnect
from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import open_task_group
from whisperd_testing import RunningDaemon, toy_model, write_tone

pytestmark = pytest.mark.real

Map = dict[str, Any]

SEED = os.environ.get("WHISPERD_TORTURE_SEED", "1")
LONG_S = float(os.environ.get("WHISPERD_TORTURE_S", "0"))
"""Seconds of the long run. The short run is a number of actions, so that a slow machine does as much."""
CLIENTS = 24
ACTIONS = 600
FILES = 4
"""Number of files in each watched folder."""

SETTINGS = """
[jobs]
keep_count = 30
[decoder]
processes = 1
[watch]
settle_s = 0.1
retry_delay_s = 0.05
[log]
max_bytes = 1_000_000_000
"""

PROFILES = ("p0", "p1", "p2")
RUNTIMES = ("r0", "r1")
MODELS = ("m0", "m1")
"""Names of models in the store."""
FOLDERS = ("w0", "w1", "w2")

GONE = {"job.unknown", "profile.unknown", "runtime.unknown", "watch.unknown", "model.unknown"}
"""Error codes: the named object no longer exists."""
TOO_LATE = {
    "job.cancelled", "job.client_gone", "job.input_gone", "job.not_over", "job.not_retryable",
    "job.text_gone",
    "model.busy", "model.damaged", "model.exists", "model.in_use", "model.load_failed", "model.not_installed",
    "profile.exists", "profile.stale", "runtime.exists", "runtime.in_use", "runtime.is_default",
    "runtime.cancelled", "runtime.stale", "runtime.unloaded", "watch.exists", "watch.stale",
    "watch.unknown_file",
}  # fmt: skip
"""Error codes: another client was faster."""

NOUNS = {"jobs": 8, "watch": 6, "profiles": 4, "models": 4, "runtimes": 3, "daemon": 1}
"""How often each noun is chosen, relatively."""


def test_a_crowd_gets_only_correct_answers(make_daemon: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    daemon = make_daemon(env={"WHISPERD_MODELS_DIR": str(tmp_path / "store")})
    daemon.settings(SETTINGS)
    daemon.start()
    daemon.make_default(toy_model(tmp_path / "default"))
    crowd = Crowd(daemon, tmp_path)
    try:
        anyio.run(crowd.run)
    except BaseException as error:
        error.add_note(f"WHISPERD_TORTURE_SEED={SEED}\n{crowd.tally}\n{daemon.log()[-4000:]}")
        raise
    print(crowd.tally)
    assert daemon.process is not None and daemon.process.poll() is None
    log = daemon.log()
    assert "Traceback" not in log and "unexpectedly" not in log and "internal.error" not in log


class Crowd:
    """The clients of one daemon, and what they share."""

    def __init__(self, daemon: RunningDaemon, folder: Path) -> None:
        self._daemon = daemon
        self.folder = folder
        self.sounds = [write_tone(folder / f"{seconds}.wav", seconds) for seconds in (0.5, 1.0)]
        self.models = [str(toy_model(folder / name, load_s=0.05)) for name in ("a", "b")]
        for name in FOLDERS:
            (folder / name).mkdir()
            for number in range(FILES):
                write_tone(folder / name / f"{number}.wav", 0.1 + 0.1 * number)
        self.jobs: list[str] = ["none"]
        """The jobs submitted last."""
        self.tally: Counter[str] = Counter()
        """How often each action was taken, by outcome."""

    async def run(self) -> None:
        async with aconnect(self._daemon.socket, start=False) as client:
            budget = Budget(ACTIONS, LONG_S)
            async with open_task_group() as tasks:
                for number in range(CLIENTS):
                    tasks.start_soon(self._client, Random(f"{SEED} {number}"), budget)
            with not_hanging("settling"):
                await self._settle(client)

    async def _client(self, random: Random, budget: Budget) -> None:
        """Act at random, and reconnect after each disconnection."""
        while budget.take():
            async with aconnect(self._daemon.socket, start=False) as client:
                is_there = True
                while is_there:
                    is_there = await self._act(Member(self, client, random)) and budget.take()

    async def _act(self, member: Member) -> bool:
        """Take one action; return whether the client stays connected."""
        does_hang_up = member.random.random() < 0.15
        patience_s = member.random.choice((0.001, 0.01, 0.05)) if does_hang_up else None
        noun, verb, act = member.choose()
        with self._counted(f"{noun}.{verb}"), not_hanging(f"{noun}.{verb}"), anyio.move_on_after(patience_s):
            answer = await act()
            assert "internal.error" not in repr(answer), answer
        return not does_hang_up

    @contextmanager
    def _counted(self, action: str) -> Iterator[None]:
        """Count an action, which may be refused only because of concurrent actions of others."""
        try:
            yield
        except WhisperdError as error:
            assert error.code in GONE | TOO_LATE, (action, error.to_wire())
            assert error.message and error.fix
            self.tally[f"{action}: {error.code}"] += 1
        else:
            self.tally[action] += 1

    async def _settle(self, client: AsyncClient) -> None:
        """After all clients are done, check that nothing is left and the database matches the answers."""
        for watch in await client.watch.list():
            await client.watch.remove(watch["id"])
        while (await client.daemon.status())["clients"] > 1:
            await anyio.sleep(0.01)
        await client.jobs.cancel(all=True)  # including those that were just being submitted
        await client.jobs.clear(ids=[])  # clears none; the reply guarantees that the jobs are on disk
        jobs = await client.jobs.list()
        assert {one["status"] for one in jobs} <= {"completed", "failed", "cancelled"}
        runtimes = await client.runtimes.list()
        assert {one["leases"] for one in runtimes} == {0}, runtimes
        profiles = await client.profiles.list()
        with closing(sqlite3.connect(self._daemon.folder / "state" / "whisperd.sqlite3")) as kept:
            saved = kept.execute("SELECT name, version FROM profiles ORDER BY name").fetchall()
            assert saved == [(one["name"], one["version"]) for one in profiles]
            saved = kept.execute("SELECT id, version FROM runtimes ORDER BY id").fetchall()
            assert saved == sorted((one["id"], one["version"]) for one in runtimes if one["saved"])
            records = [json.loads(text) for (text,) in kept.execute("SELECT record FROM jobs")]
            assert {one["id"]: one["status"] for one in records} == {one["id"]: one["status"] for one in jobs}
            for table in ("watches", "watch_files", "watch_outputs", "watch_log"):
                assert kept.execute(f"SELECT * FROM {table}").fetchall() == []
        assert not list((self._daemon.folder / "state" / "uploads").iterdir())
        assert not list((self.folder / "store" / "partial").iterdir())


class Member:
    """A client of the crowd and its possible actions. Each action raises the daemon's refusal."""

    def __init__(self, crowd: Crowd, client: AsyncClient, random: Random) -> None:
        self._crowd = crowd
        self._client = client
        self.random = random

    def choose(self) -> tuple[str, str, Callable[[], Any]]:
        """Return a noun, a verb, and the function that performs the action."""
        (noun,) = self.random.choices(list(NOUNS), list(NOUNS.values()))
        actions: dict[str, Callable[[], Any]] = getattr(self, f"_{noun}")()
        verb = self.random.choice(list(actions))
        return noun, verb, actions[verb]

    def _jobs(self) -> dict[str, Callable[[], Any]]:
        jobs, job = self._client.jobs, self.random.choice(self._crowd.jobs)
        return {
            "submit": self._submit,
            "submit again": self._submit,
            "upload": lambda: self._submit(is_upload=True),
            "transcribe": self._transcribe,
            "follow": lambda: self._follow(job),
            "list": jobs.list,
            "show": lambda: jobs.show(job),
            "result": lambda: jobs.result(job, "srt"),
            "retry": lambda: jobs.retry(job),
            "retry twice": lambda: self._twice(lambda: jobs.retry(job)),
            "cancel": lambda: jobs.cancel(job),
            "cancel some": lambda: jobs.cancel(ids=self._crowd.jobs[-3:]),
            "cancel all": lambda: jobs.cancel(all=True),
            "clear": lambda: jobs.clear([job]),
            "clear all": lambda: jobs.clear(purge=self.random.random() < 0.3),
            "search": lambda: self._client.transcripts.search("transcribe"),
        }

    def _watch(self) -> dict[str, Callable[[], Any]]:
        watch, random = self._client.watch, self.random
        name = str(self._crowd.folder / random.choice(FOLDERS))
        changes: list[Map] = [
            {"profile": random.choice((None, *PROFILES))},
            {"runtime": random.choice((None, *RUNTIMES)), "options": {"vad": False}},
            {"runtime": None, "options": {"vad": False, "model": random.choice(self._crowd.models)}},
            {"outputs": random.choice((["text"], ["srt", "json"]))},
        ]
        return {
            "add": lambda: watch.add(name, options={"vad": False, "cache": random.random() < 0.5}),
            "edit": lambda: watch.edit(
                name, version=random.choice((None, None, 1)), **random.choice(changes)
            ),
            "remove": lambda: watch.remove(name),
            "pause": lambda: watch.pause(name),
            "resume": lambda: watch.resume(name),
            "scan": lambda: watch.scan(name),
            "retry": lambda: watch.retry(name, all=random.random() < 0.7),
            "retry one": lambda: watch.retry(name, [f"{random.randrange(FILES)}.wav"]),
            "show": lambda: watch.show(name),
            "list": watch.list,
            "log": lambda: watch.log(name),
            "touch": lambda: self._touch(Path(name)),
        }

    def _profiles(self) -> dict[str, Callable[[], Any]]:
        profiles, random = self._client.profiles, self.random
        name, runtime = random.choice(PROFILES), random.choice((None, *RUNTIMES))
        changes: list[Map] = [{"name": random.choice(PROFILES)}, {"runtime": runtime}, {"options": {}}]
        return {
            "create": lambda: profiles.create(name, runtime, {"language": "en"}),
            "create twice": lambda: self._twice(lambda: profiles.create(name)),
            "edit": lambda: profiles.edit(
                name, version=random.choice((None, None, 1)), **random.choice(changes)
            ),
            "delete": lambda: profiles.delete(name),
            "show": lambda: profiles.show(name),
            "list": profiles.list,
        }

    def _models(self) -> dict[str, Callable[[], Any]]:
        models, name = self._client.models, self.random.choice(MODELS)
        source = self.random.choice(self._crowd.models)
        return {
            "import": lambda: models.import_(source, name),
            "import twice": lambda: self._twice(lambda: models.import_(source, name)),
            "remove": lambda: models.remove(name),
            "verify": lambda: models.verify(name),
            "pull": lambda: models.pull(source),
            "show": lambda: models.show(name),
            "path": lambda: models.path(name),
            "list": models.list,
            "available": models.available,
        }

    def _runtimes(self) -> dict[str, Callable[[], Any]]:
        runtimes, name = self._client.runtimes, self.random.choice(RUNTIMES)
        model = self.random.choice((*self._crowd.models, *MODELS))
        return {
            "create": lambda: runtimes.create(name, model, backend="toy", keep_alive=0),
            "create twice": lambda: self._twice(lambda: runtimes.create(name, model, backend="toy")),
            "edit": lambda: runtimes.edit(name, model=model),
            "delete": lambda: runtimes.delete(name),
            "show": lambda: runtimes.show(name),
            "list": runtimes.list,
            "load": lambda: runtimes.load(name),
        }

    def _daemon(self) -> dict[str, Callable[[], Any]]:
        daemon = self._client.daemon
        return {"status": daemon.status, "metrics": daemon.metrics, "reload": daemon.reload}

    async def _submit(self, *, is_upload: bool = False) -> str:
        sound, detach = self.random.choice(self._crowd.sounds), self.random.random() < 0.6
        input = sound.read_bytes() if is_upload else sound
        choices: list[Map] = [
            {},
            {"runtime": self.random.choice(RUNTIMES)},
            {"model": self.random.choice((*self._crowd.models, *MODELS))},
        ]
        choice = self.random.choice(choices)
        cache = self.random.random() < 0.5
        job = await self._client.submit(input, detach=detach, vad=False, cache=cache, **choice)
        self._crowd.jobs = [*self._crowd.jobs[-9:], job]
        return job

    async def _transcribe(self) -> Map:
        """Transcribe with a profile, which may be deleted meanwhile."""
        sound, profile = str(self._crowd.sounds[0]), self.random.choice(PROFILES)
        answer = await self._client.request(
            "jobs.submit", input={"path": sound}, options={"vad": False}, profile=profile
        )
        return dict(await self._client.jobs.wait(answer["id"]))

    async def _follow(self, job: str) -> list[Map]:
        async with aclosing(self._client.follow(job)) as following:
            return [event async for event in following]

    async def _twice(self, ask: Callable[[], Any]) -> None:
        """Send the same request twice concurrently; one may be refused."""

        async def once() -> None:
            with self._crowd._counted("twice"):
                await ask()

        async with open_task_group() as tasks:
            tasks.start_soon(once)
            tasks.start_soon(once)

    async def _touch(self, folder: Path) -> None:
        """Delete a recording, or replace it with a new one."""
        path = folder / f"{self.random.randrange(FILES)}.wav"
        if self.random.random() < 0.3:
            path.unlink(missing_ok=True)
        else:
            new = write_tone(folder / f".{self.random.random()}", 0.1 + 0.1 * self.random.random())
            new.replace(path)
