"""What people do with a daemon in the course of a day: each chore by itself, and how it has to end.

Chores may be done at the same time: each has names and files of its own, so what becomes of it is known.
Those that kill processes are done alone (`KILLS`), for they end the jobs of others.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import anyio
import psutil

from whisperd.client import AsyncClient, aconnect
from whisperd.rpc.errors import WhisperdError
from whisperd.speech import samples
from whisperd.tasks import open_task_group
from whisperd_testing import RunningDaemon, toy_model, write_tone

__all__ = ["CHORES", "DEFAULT_MODEL", "ENDS", "KILLS", "Chore", "Household", "refused"]

Map = dict[str, Any]
ENDS = {
    "transcription.completed": "completed",
    "transcription.failed": "failed",
    "transcription.cancelled": "cancelled",
}
"""By the event that tells of it: how a job has ended."""
DEFAULT_MODEL = "default"
SHORT_S, REFUSED_S, LONG_S = 1.0, 0.7, 30.0
SETTINGS = """
[jobs]
keep_count = 10000
[decoder]
processes = 1
max_window_s = 5
memory_bytes = {memory_bytes}
[runtime]
keep_alive_s = 0
[watch]
settle_s = 0.1
retry_delay_s = 0.05
[log]
level = "{level}"
max_bytes = 1_000_000
"""
SOUND: Map = {"vad": False, "language": "en"}
"""How tones are transcribed, in which nobody speaks."""


@dataclass
class Household:
    """A daemon, the files of those who use it, and what it has promised them."""

    daemon: RunningDaemon
    folder: Path
    acknowledged: set[str] = field(default_factory=set)
    """The jobs of this cycle, but for those that were cleared."""
    ended_besides: int = 0
    """How often jobs of this cycle have ended that were retried or cleared since."""

    def prepare(self) -> None:
        """Make what the chores use, before the daemon is started."""
        for name, behaviour in MODELS.items():
            toy_model(self.model(name), **behaviour)
        for name, seconds in {"short": SHORT_S, "refused": REFUSED_S, "long": LONG_S}.items():
            write_tone(self.sound(name), seconds)
        self.sound("broken").write_bytes(b"RIFF, but no sound" * 100)
        (self.model("stuck") / "hold_load").touch()
        self.watched.mkdir()
        self.set(0)

    def model(self, name: str) -> Path:
        """A toy model's folder."""
        return self.folder / "models" / name

    def sound(self, name: str) -> Path:
        """A recording."""
        return self.folder / f"{name}.wav"

    @property
    def watched(self) -> Path:
        """The folder that is watched all the time."""
        return self.folder / "watched"

    def set(self, cycle: int) -> None:
        """Write the settings of a cycle: every second one has others."""
        memory_bytes = 2**30 + cycle % 2 * 2**20
        self.daemon.settings(SETTINGS.format(memory_bytes=memory_bytes, level=("info", "debug")[cycle % 2]))

    @asynccontextmanager
    async def visit(self) -> AsyncIterator[AsyncClient]:
        """A client that hangs up after the block."""
        async with aconnect(self.daemon.socket, start=False) as client:
            yield client

    async def begin(self, client: AsyncClient, sound: str | bytes = "short", **options: Any) -> str:
        """Submit a job, by default of a tone, and note that it was acknowledged."""
        input = self.sound(sound) if isinstance(sound, str) else sound
        job = await client.submit(input, **{**SOUND, "cache": False, **options})
        self.acknowledged.add(job)
        return job


MODELS: dict[str, Map] = {
    DEFAULT_MODEL: {"window_s": 0.02, "refuse_s": REFUSED_S, "cancels": True},
    "other": {"window_s": 0.01},
    "broken": {"load_error": "it is broken"},
    "broken as well": {"load_error": "it is broken"},
    "stuck": {},
}


@dataclass(frozen=True)
class Chore:
    """One cycle of a chore."""

    home: Household
    client: AsyncClient
    cycle: int
    random: Random

    async def _ends(self, job: str, client: AsyncClient | None = None) -> str:
        """Follow a job: it has one end, which comes last; returns which."""
        async with aclosing((client or self.client).follow(job)) as following:
            told = [event["type"] async for event in following]
        assert [one for one in told if one in ENDS] == told[-1:], told
        return ENDS[told[-1]]

    async def _first_text(self, client: AsyncClient, job: str) -> None:
        """Follow a job until there is something of its text, or it is over."""
        async with aclosing(client.follow(job)) as following:
            async for event in following:
                if event["type"] == "transcription.segment":
                    return

    # Jobs

    async def attached(self) -> None:
        job = await self.home.begin(self.client, timestamps=self.random.choice(("segment", "word")))
        assert await self._ends(job) == "completed"
        assert (await self.client.jobs.wait(job))["text"] == f"transcribe {SHORT_S:.2f} s"
        for name in ("srt", "verbose_json", "md"):
            assert (await self.client.jobs.result(job, name))["content"]

    async def detached(self) -> None:
        async with self.home.visit() as other:
            job = await self.home.begin(other, detach=True, priority=self.random.choice(("bulk", "normal")))
        assert await self._ends(job) == "completed"

    async def cached(self) -> None:
        """The same sound twice: the second time a kept text answers."""
        seconds = SHORT_S + self.random.random()  # the engine does not refuse it
        sound = write_tone(self.home.folder / "cached.wav", seconds).read_bytes()
        for is_cached in (False, True):
            job = await self.home.begin(self.client, sound, cache=True)
            assert await self._ends(job) == "completed"
            assert (await self.client.jobs.show(job))["cached"] is is_cached
        assert await self.client.transcripts.search("transcribe")

    async def cancelled(self) -> None:
        job = await self.home.begin(self.client, "long")
        await self._first_text(self.client, job)
        await self.client.jobs.cancel(job)
        if await self._ends(job) == "cancelled":
            self.home.ended_besides += 1
            await self.client.jobs.retry(job)
            assert await self._ends(job) == "completed"

    async def failing(self) -> None:
        """A file that is none, sound that the engine refuses, a model that cannot be loaded."""
        with refused("audio.not_found"):
            await self.home.begin(self.client, "nothing")
        for sound, options in (
            ("broken", {}),
            ("refused", {}),
            ("short", {"model": str(self.home.model("broken"))}),
        ):
            job = await self.home.begin(self.client, sound, **options)
            assert await self._ends(job) == "failed", (sound, options)

    async def hung_up(self) -> None:
        """The client of a job goes in mid-stream, and takes it along unless it is over."""
        async with self.home.visit() as other:
            await other.request("events.subscribe", topics=["jobs", "runtimes", "models"])
            job = await self.home.begin(other, "long")
            await self._first_text(other, job)
        assert await self._ends(job) in ("cancelled", "completed")

    async def uploaded(self) -> None:
        """Of an upload; one that is cancelled; one that never becomes a job."""
        sound = self.home.sound("short").read_bytes()
        job = await self.home.begin(self.client, sound)
        assert await self._ends(job) == "completed"
        async with self.home.visit() as other:
            job = await self.home.begin(other, self.home.sound("long").read_bytes(), detach=True)
            await other.jobs.cancel(job)
            upload = (await other.request("uploads.create"))["id"]
            await other.request("uploads.append", id=upload, data=sound)

    async def cleared(self) -> None:
        job = await self.home.begin(self.client)
        assert await self._ends(job) == "completed"
        assert (await self.client.jobs.clear([job], purge=self.random.random() < 0.5))["cleared"] == 1
        self.home.acknowledged.remove(job)
        self.home.ended_besides += 1
        with refused("job.unknown"):
            await self.client.jobs.show(job)

    # Live speech

    async def spoken(self) -> None:
        """Somebody dictates to the end, another one hangs up in mid-speech."""
        speech = samples()[0].pcm
        async with self.client.dictate(language="en") as dictation:
            self.home.acknowledged.add(dictation.id)
            await dictation.push(speech)
            await dictation.finish()
            assert (await dictation.result()).text
        async with self.home.visit() as other:
            job = (await other.jobs.submit({"stream": True}, {"language": "en"}))["id"]
            self.home.acknowledged.add(job)
            await other.jobs.push(job, speech[:64_000])
        assert await self._ends(job) == "cancelled"

    # Runtimes, profiles, models

    async def runtimes(self) -> None:
        runtimes, name = self.client.runtimes, f"runtime {self.cycle}"
        await runtimes.create(name, self.home.model("other"), backend="toy", keep_alive="1h")
        assert (await runtimes.load(name))["status"] == "loaded"
        job = await self.home.begin(self.client, runtime=name)
        assert await self._ends(job) == "completed"
        await runtimes.edit(name, batch_size=2)
        assert (await runtimes.unload(name))["leases"] == 0
        await runtimes.delete(name)

    async def failing_runtimes(self) -> None:
        """One that cannot be loaded, and one whose load is given up by who wants it.

        The model is of this chore alone: a job that names a model takes a runtime that has it.
        """
        runtimes, name = self.client.runtimes, f"failing {self.cycle}"
        await runtimes.create(name, self.home.model("broken as well"), backend="toy")
        with refused("model.load_failed"):
            await runtimes.load(name)
        await runtimes.edit(name, model=self.home.model("stuck"))
        async with self.home.visit() as other, open_task_group() as tasks:
            tasks.start_soon(other.runtimes.load, name)
            while (await runtimes.show(name))["status"] != "loading":
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        while (await runtimes.show(name))["leases"]:  # until the daemon has heard of that
            await anyio.sleep(0.01)
        await runtimes.delete(name)

    async def once(self) -> None:
        """A model of which there is no runtime, in a folder that nobody has named before."""
        model = toy_model(self.home.model(f"once {self.cycle}"))
        job = await self.home.begin(self.client, model=str(model))
        assert await self._ends(job) == "completed"
        shutil.rmtree(model)

    async def profiles(self) -> None:
        profiles, name = self.client.profiles, f"profile {self.cycle}"
        await profiles.create(name, options={"vad": False, "language": "en"})
        input = {"path": str(self.home.sound("short"))}
        job = (await self.client.jobs.submit(input, {"cache": False}, profile=name))["id"]
        self.home.acknowledged.add(job)
        assert await self._ends(job) == "completed"
        await profiles.edit(name, name=f"renamed {self.cycle}")
        await profiles.delete(f"renamed {self.cycle}")

    async def models(self) -> None:
        models, name = self.client.models, f"model-{self.cycle}"
        await models.import_(self.home.model("other"), name)
        await models.verify(name)
        assert name in [one["name"] for one in await models.list()]
        await models.remove(name)

    # Watch folders

    async def watched(self) -> None:
        """Recordings come, are edited, are renamed and go."""
        home, name = self.home.watched, str(self.home.watched)
        first, second = (write_tone(home / f"{self.cycle} {one}.wav", 0.3) for one in ("a", "b"))
        await self._text(first, 0.3)
        await self._text(second, 0.3)
        write_tone(second, 0.4)
        renamed = first.rename(home / f"{self.cycle} c.wav")
        await self._text(renamed, 0.3)
        await self._text(second, 0.4)
        for path in (renamed, second, *home.glob("*.txt")):
            path.unlink(missing_ok=True)
        await self.client.watch.scan(name)
        await self.client.watch.log(name)

    async def folder(self) -> None:
        """A folder is watched for a while, and forgotten."""
        folder, watch = self.home.folder / f"folder {self.cycle}", self.client.watch
        folder.mkdir()
        path = write_tone(folder / "a.wav", 0.3)
        added = await watch.add(folder, options=SOUND, outputs=["srt"])
        while not path.with_name("a.en.srt").exists():
            await anyio.sleep(0.02)
        await watch.pause(added["id"])
        await watch.resume(added["id"])
        await watch.retry(added["id"], all=True)
        await watch.remove(added["id"])
        shutil.rmtree(folder, ignore_errors=True)  # a text that was being written may still come

    async def _text(self, path: Path, seconds: float) -> None:
        text = path.with_name(f"{path.stem}.en.txt")
        said = f"transcribe {seconds:.2f} s\n"
        while not (text.exists() and text.read_text() == said):
            await anyio.sleep(0.02)

    # The daemon

    async def asked(self) -> None:
        """Whatever can be asked without changing anything."""
        daemon = self.client.daemon
        for ask in (daemon.status, daemon.metrics, daemon.config, self.client.jobs.list,
                    self.client.hardware.show, self.client.models.available,
                    self.client.models.recommend, self.client.natives.list):  # fmt: skip
            assert await ask() is not None
        if self.cycle % 5 == 0:
            assert await self.client.doctor.check()

    async def reloaded(self) -> None:
        """Settings that are wrong, and other ones than before."""
        self.home.daemon.settings("[jobs]\nkeep_cuont = 3\n")
        with refused("config.invalid"):
            await self.client.daemon.reload()
        self.home.set(self.cycle)
        assert (await self.client.daemon.reload())["restart_needed"] == []

    async def nonsense(self) -> None:
        """What is no message, and what is half of one."""
        for data, is_refused in ((b"\xc1\xc1\xc1", True), (b"\x94\x00\x02\xaeuploads.append\x91", False)):
            async with await anyio.connect_unix(self.home.daemon.socket) as stream:
                await stream.send(data)
                if is_refused:
                    with suppress(anyio.EndOfStream):
                        while True:
                            await stream.receive()

    # What kills

    async def worker_killed(self) -> None:
        """The windows that it computed are computed once more."""
        job = await self.home.begin(self.client, "long", detach=True)
        await self._first_text(self.client, job)
        self._kill("whisperd.worker.main")
        assert await self._ends(job) == "completed"

    async def decoder_killed(self) -> None:
        """Another one goes on."""
        job = await self.home.begin(self.client, "long", detach=True)
        self._kill("whisperd.audio.decoder")
        assert await self._ends(job) == "completed"

    async def listener_killed(self) -> None:
        """Who hears of changes in watch folders is started again."""
        self._kill("whisperd.folder_changes")

    def _kill(self, module: str) -> None:
        for child in self.home.daemon.children():
            with suppress(psutil.Error):
                if module in child.cmdline():
                    child.kill()


class refused:
    """What is asked in the block is refused with this code."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> bool:
        assert isinstance(error, WhisperdError) and error.code == self._code, (self._code, error)
        return True


Do = Callable[[Chore], Awaitable[None]]
CHORES: tuple[Do, ...] = (
    Chore.attached, Chore.detached, Chore.cached, Chore.cancelled, Chore.failing, Chore.hung_up,
    Chore.uploaded, Chore.cleared, Chore.spoken, Chore.runtimes, Chore.failing_runtimes, Chore.once,
    Chore.profiles, Chore.models, Chore.watched, Chore.folder, Chore.asked, Chore.reloaded,
    Chore.nonsense,
)  # fmt: skip
KILLS: tuple[Do, ...] = (Chore.worker_killed, Chore.decoder_killed, Chore.listener_killed)
