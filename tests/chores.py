"""Everyday uses of a daemon as small chores, each with its expected outcome.

Chores may run concurrently: each has its own names and files, so its outcome is predictable. Those that kill
processes (`KILLS`) run alone, because they end the jobs of other chores.
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
"""The final status of a job, by the event that reports it."""
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
"""Options for transcribing tones, which contain no speech."""


@dataclass
class Household:
    """A daemon, its users' files, and the jobs that it has acknowledged."""

    daemon: RunningDaemon
    folder: Path
    acknowledged: set[str] = field(default_factory=set)
    """The jobs of this cycle, except those that were cleared."""
    hidden_ends: int = 0
    """How many ends of jobs in this cycle no longer show, because the job was then retried or cleared."""

    def prepare(self) -> None:
        """Create the models, recordings and settings that the chores use, before the daemon starts."""
        for name, behaviour in MODELS.items():
            toy_model(self.model(name), **behaviour)
        for name, seconds in {"short": SHORT_S, "refused": REFUSED_S, "long": LONG_S}.items():
            write_tone(self.sound(name), seconds)
        self.sound("broken").write_bytes(b"RIFF, but no sound" * 100)
        (self.model("stuck") / "hold_load").touch()
        self.watched.mkdir()
        self.set(0)

    def model(self, name: str) -> Path:
        """Return a toy model's folder."""
        return self.folder / "models" / name

    def sound(self, name: str) -> Path:
        """Return a recording's path."""
        return self.folder / f"{name}.wav"

    @property
    def watched(self) -> Path:
        """The folder that is watched throughout."""
        return self.folder / "watched"

    def set(self, cycle: int) -> None:
        """Write the settings of a cycle, which alternate between two variants."""
        memory_bytes = 2**30 + cycle % 2 * 2**20
        self.daemon.settings(SETTINGS.format(memory_bytes=memory_bytes, level=("info", "debug")[cycle % 2]))

    @asynccontextmanager
    async def visit(self) -> AsyncIterator[AsyncClient]:
        """Yield a client that disconnects after the block."""
        async with aconnect(self.daemon.socket, start=False) as client:
            yield client

    async def begin(self, client: AsyncClient, sound: str | bytes = "short", **options: Any) -> str:
        """Submit a job, by default for a tone, and record that it was acknowledged."""
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
        """Follow a job, check that it has exactly one final event, the last, and return its status."""
        async with aclosing((client or self.client).follow(job)) as following:
            types = [event["type"] async for event in following]
        assert [one for one in types if one in ENDS] == types[-1:], types
        return ENDS[types[-1]]

    async def _first_text(self, client: AsyncClient, job: str) -> None:
        """Follow a job until its first segment arrives or it ends."""
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
        """Submit the same audio twice: a stored transcript answers the second time."""
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
            self.home.hidden_ends += 1
            await self.client.jobs.retry(job)
            assert await self._ends(job) == "completed"

    async def failing(self) -> None:
        """Submit a missing file, a broken one, audio that the engine refuses, a model that will not load."""
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
        """Disconnect a job's client in mid-stream, which cancels the job unless it is over."""
        async with self.home.visit() as other:
            await other.request("events.subscribe", topics=["jobs", "runtimes", "models"])
            job = await self.home.begin(other, "long")
            await self._first_text(other, job)
        assert await self._ends(job) in ("cancelled", "completed")

    async def uploaded(self) -> None:
        """Transcribe an upload, cancel another, and start one that never becomes a job."""
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
        self.home.hidden_ends += 1
        with refused("job.unknown"):
            await self.client.jobs.show(job)

    # Live speech

    async def spoken(self) -> None:
        """Dictate to the end; then disconnect another client in mid-speech."""
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
        """Load a runtime that fails to load, and abandon the load of another.

        No other chore uses this model: a job that names a model takes any runtime that has it.
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
        while (await runtimes.show(name))["leases"]:  # until the daemon notices the cancellation
            await anyio.sleep(0.01)
        await runtimes.delete(name)

    async def once(self) -> None:
        """Use a model without a runtime, in a folder that has never been named before."""
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
        """Add, edit, rename and delete recordings."""
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
        """Watch a folder for a while, then remove it."""
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
        shutil.rmtree(folder, ignore_errors=True)  # a transcript that was being written may still appear

    async def _text(self, path: Path, seconds: float) -> None:
        text = path.with_name(f"{path.stem}.en.txt")
        said = f"transcribe {seconds:.2f} s\n"
        while not (text.exists() and text.read_text() == said):
            await anyio.sleep(0.02)

    # The daemon

    async def asked(self) -> None:
        """Send every request that changes nothing."""
        daemon = self.client.daemon
        for ask in (daemon.status, daemon.metrics, daemon.config, self.client.jobs.list,
                    self.client.hardware.show, self.client.models.available,
                    self.client.models.recommend, self.client.natives.list):  # fmt: skip
            assert await ask() is not None
        if self.cycle % 5 == 0:
            assert await self.client.doctor.check()

    async def reloaded(self) -> None:
        """Reload invalid settings, then valid ones that differ from the current ones."""
        self.home.daemon.settings("[jobs]\nkeep_cuont = 3\n")
        with refused("config.invalid"):
            await self.client.daemon.reload()
        self.home.set(self.cycle)
        assert (await self.client.daemon.reload())["restart_needed"] == []

    async def nonsense(self) -> None:
        """Send bytes that are not a message, and half a message."""
        for data, is_refused in ((b"\xc1\xc1\xc1", True), (b"\x94\x00\x02\xaeuploads.append\x91", False)):
            async with await anyio.connect_unix(self.home.daemon.socket) as stream:
                await stream.send(data)
                if is_refused:
                    with suppress(anyio.EndOfStream):
                        while True:
                            await stream.receive()

    # Killing processes

    async def worker_killed(self) -> None:
        """Kill the workers: the windows that they were computing are computed again."""
        job = await self.home.begin(self.client, "long", detach=True)
        await self._first_text(self.client, job)
        self._kill("whisperd.worker.main")
        assert await self._ends(job) == "completed"

    async def decoder_killed(self) -> None:
        """Kill the decoders: a new one continues."""
        job = await self.home.begin(self.client, "long", detach=True)
        self._kill("whisperd.audio.decoder")
        assert await self._ends(job) == "completed"

    async def listener_killed(self) -> None:
        """Kill the process that listens for changes in watch folders: it is restarted."""
        self._kill("whisperd.folder_changes")

    def _kill(self, module: str) -> None:
        for child in self.home.daemon.children():
            with suppress(psutil.Error):
                if module in child.cmdline():
                    child.kill()


class refused:
    """Assert that the request in the block is refused with this code."""

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
