"""The types of the client, as a type checker sees them in a user's program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
import array
import io
import threading
from pathlib import Path

import whisperd


def synchronous() -> None:
    with whisperd.connect() as daemon:
        transcript = daemon.transcribe("a.wav", model="base", language="de", beam_size=2)
        text: str = transcript.text
        for segment in daemon.transcribe(Path("a.wav"), stream=True, vad=False, priority="bulk"):
            end: float = segment.end
        daemon.transcribe(b"RIFF", temperature=(0.0, 0.5))
        daemon.transcribe(io.BytesIO(b"RIFF"), temperature=0.0, model=Path("folder"))
        with open("a.wav", "rb") as file:
            job: str = daemon.submit(file, detach=True, task="translate")
        for event in daemon.follow(job):
            print(event["type"], text, end)
        daemon.jobs.cancel(job)["status"]
        created = daemon.runtimes.create("fast", Path("folder"), device="cuda", device_index=0, default=True)
        daemon.runtimes.edit("fast", name="quick", keep_alive="15m", version=created["version"])
        daemon.profiles.create("talks", "quick", {"language": "de"})
        daemon.profiles.edit("talks", runtime=None, options={"vad": False})
        daemon.transcribe("a.wav", runtime="quick")


def library() -> None:
    engine = whisperd.initialize(print, cancel=threading.Event())
    folder: Path = whisperd.download_model("base", progress=lambda progress: print(progress.done))
    with whisperd.Whisper(folder, device="cpu", workers=2, progress=print) as whisper:
        samples = array.array("f", [0.0])
        text: str = whisper.transcribe(samples, sample_rate=8_000, language="de", vad=False).text
        for segment in whisper.transcribe("a.wav", stream=True):
            print(segment.end, text, engine.variant, whisper.languages)


async def asynchronous(options: whisperd.JobOptions) -> None:
    await whisperd.adownload_model((await whisperd.ainitialize()).variant)
    async with whisperd.AsyncWhisper("base", compute_type="int8") as whisper:
        print((await whisper.transcribe(b"RIFF", beam_size=1)).text)
        async for segment in whisper.transcribe("a.wav", stream=True):
            print(segment.start)
    async with whisperd.aconnect(start=False) as daemon:
        text: str = (await daemon.transcribe("a.wav", **options)).text
        async for segment in daemon.transcribe("a.wav", stream=True):
            print(segment.start, text)
        runtimes = await daemon.runtimes.list()
        print((await daemon.runtimes.load(runtimes[0]["id"]))["status"])
        jobs = await daemon.jobs.list()
        print([job["id"] for job in jobs])


try:
    synchronous()
except whisperd.WhisperdError as error:
    print(error.code, error.message, error.fix, error.data)
"""

BAD = """
import io
import whisperd

with whisperd.connect() as daemon:
    daemon.transcribe("a.wav", langage="de")
    daemon.transcribe("a.wav", task="summarise")
    daemon.transcribe(io.StringIO("text"))
    daemon.transcribe(5)
    daemon.transcribe("a.wav").txt
    for segment in daemon.transcribe("a.wav"):
        segment.end
    daemon.runtimes.create(5)
    daemon.runtimes.create("fast", "base", device="tpu")
    daemon.runtimes.edit("fast", nmae="quick")
    daemon.profiles.create("talks", options={"langage": "de"})
whisperd.Whisper("base", device="tpu")
whisperd.Whisper("base").transcribe("a.wav", model="tiny")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all programs, with mypy's cache for whisperd."""
    return tmp_path_factory.mktemp("programs")


def mypy(folder: Path, program: str) -> list[str]:
    """Return the errors of `mypy --strict`, one line each."""
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={folder}", "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def test_a_correct_program_passes(folder: Path) -> None:
    assert mypy(folder, GOOD) == []


def test_every_mistake_is_found(folder: Path) -> None:
    lines = {int(line.split(":")[1]) for line in mypy(folder, BAD)}
    assert {6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18} <= lines
