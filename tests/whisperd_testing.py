"""Helpers for whole-program tests: a real daemon in a private folder, and inputs for it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from whisperd.client import Client, connect
from whisperd.installed_plugins import backends
from whisperd.models import ModelStore

TESTS = Path(__file__).parent
AUDIO = TESTS / "data" / "audio"
KENNEDY = (
    "And so my fellow Americans ask not what your country can do for you ask what you can do for your country"
)
"""The words spoken in `jfk.flac`, without punctuation."""
CACHE = Path(os.environ.get("WHISPERD_TEST_CACHE", TESTS.parent / ".cache" / "test"))
"""Native bundles and models that tests download, cached between runs."""
BUG = re.compile(
    r"(?m)^.*(?: ERROR asyncio: .*|: unexpected error| failed unexpectedly| an internal error)$|^Fatal .*$"
)
"""A line that a daemon logs only because of a bug."""
LIMIT_S = 120.0
"""An operation that takes longer hangs: far more than the slowest machine needs for anything awaited here."""


class RunningDaemon:
    """A daemon with a private folder, run as a user would run it."""

    def __init__(
        self,
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        toy: bool = True,
        program: Sequence[str] = ("whisperd",),
    ) -> None:
        self.folder = folder
        self._program = program
        # The path of a socket must be short, and pytest's folders are long.
        self._short = tempfile.TemporaryDirectory(prefix="whisperd-")
        self.socket = f"{self._short.name}/d.sock"
        self.config = folder / "config.toml"
        self.env = {
            **os.environ,
            "WHISPERD_SOCKET": self.socket,
            "WHISPERD_CONFIG": str(self.config),
            "WHISPERD_STATE_DIR": str(folder / "state"),
            "WHISPERD_NATIVE_DIR": str(CACHE / "native"),
            "WHISPERD_MODELS_DIR": str(CACHE / "models"),
            "HF_HUB_OFFLINE": "1",
            "WHISPERD_PRELOAD": "0",
            "WHISPERD_CALIBRATE": "0",
            "WHISPERD_ENVIRONMENT": "TOY_*, MEMORY_PRESSURE_WATCH",
            "MEMORY_PRESSURE_WATCH": "/dev/null",  # memory may be short here; never unload a runtime for it
            **({"PYTHONPATH": str(TESTS / "backends")} if toy else {}),
            **(env or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.has_a_bug = False
        """Whether its test gives it a bug, to see what becomes of it."""

    def start(self, *arguments: str) -> RunningDaemon:
        """Start it in the foreground and wait until it listens."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *self._program, "--announce", *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if b'"socket"' not in line:
            raise AssertionError(f"the daemon did not start: {line!r}, {self.process.stderr.read()!r}")
        self.process.stdout.close()
        self.process.stderr.close()
        return self

    def settings(self, toml: str) -> None:
        """Write its settings file."""
        self.config.write_text(toml)

    def connect(self) -> Client:
        """Return a connected client."""
        return connect(self.socket, start=False)

    def make_default(self, model: str | Path) -> None:
        """Give the default runtime this model, which starts loading it."""
        with self.connect() as client:
            name = client.daemon.status()["default_runtime"]
            client.request("runtimes.edit", name=name, changes={"model": str(model)})

    def ctl(self, *arguments: str, input: bytes | None = None, timeout: float = LIMIT_S) -> Finished:
        """Run whisperctl as a user would."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "whisperd.cli.main", *arguments],
            env=self.env,
            input=input,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return Finished(done.returncode, done.stdout.decode(), _without_downloads(done.stderr.decode()))

    @property
    def pid(self) -> int:
        """The daemon's process ID."""
        assert self.process is not None
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """Return its workers, decoders and download processes."""
        return psutil.Process(self.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """Return its worker processes."""
        return [child for child in self.children() if "whisperd.worker.main" in _command_line(child)]

    def decoders(self) -> list[psutil.Process]:
        """Return its decoder processes."""
        return [child for child in self.children() if "whisperd.audio.decoder" in _command_line(child)]

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, as close to a power cut as a process can get; its children must end on their own."""
        children = self.children()
        self.signal(signal.SIGKILL)
        self.wait()
        _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
        assert not alive, f"its children outlive it: {alive}"

    def until_saved(self) -> None:
        """Wait until everything it has reported about jobs is on disk: events are sent a moment before."""
        with self.connect() as client:
            client.jobs.clear(ids=[])  # clears none; the reply guarantees that the journal is written

    def wait(self, timeout: float = LIMIT_S) -> int:
        """Wait until it exits; return its exit status."""
        assert self.process is not None
        return self.process.wait(timeout)

    def log(self) -> str:
        """Return its log so far."""
        path = self.folder / "state" / "daemon.log"
        return path.read_text() if path.is_file() else ""

    def close(self) -> None:
        """Stop it and check that no process of it is left, and that it has logged no bug."""
        if self.process is not None and self.process.poll() is None:
            orphans = self.children()
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(LIMIT_S)
            _, alive = psutil.wait_procs(orphans, timeout=LIMIT_S)
            assert not alive, f"the daemon left processes behind: {alive}"
        if Path(self.socket).exists():  # a daemon started by a client
            self.ctl("daemon", "stop")
        self._short.cleanup()
        bugs = [] if self.has_a_bug else BUG.findall(self.log())
        assert not bugs, f"the daemon logged bugs: {bugs}"


def _without_downloads(err: str) -> str:
    """Remove the lines that report downloads: which test first needs a file is a matter of chance."""
    return re.sub(r"(?m)^((Downloading|Building|Converting) .* \.\.\.|.* is downloaded)\n", "", err)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just exited
        return []


class Finished:
    """A command that has exited."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """Its standard output, parsed: it must be a single JSON document."""
        return json.loads(self.out)

    def __repr__(self) -> str:
        return f"status {self.status}\nout: {self.out}\nerr: {self.err}"


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run the block as a user subject to file permissions, even where the tests run as root."""
    is_root = os.name == "posix" and os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def start_with_small_files(daemon: RunningDaemon) -> None:
    """Start a daemon whose files cannot grow beyond 1 MiB: a full disk, simulated without a disk."""
    import resource

    limits = (2**20, 2**20)
    subprocess.run(
        [sys.executable, "-P", "-m", "whisperd.cli.main", "daemon", "start"],
        env=daemon.env,
        check=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )


def start_without_privileges(daemon: RunningDaemon) -> None:
    """Start a daemon subject to file permissions, even as root, which is otherwise exempt from them."""
    command = [sys.executable, "-P", "-m", "whisperd.cli.main", "daemon", "start"]
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv to drop privileges")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    subprocess.run(command, env=daemon.env, check=True, capture_output=True, timeout=LIMIT_S)


def toy_model(folder: Path, **behaviour: Any) -> Path:
    """Make a folder that looks like a model, for the toy backend, whose docstring lists `behaviour`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = dict.fromkeys(("model.bin", "tokenizer.json", "vocabulary.txt"), "{}")
    for name, content in {"config.json": json.dumps(behaviour), **files}.items():
        (folder / f"{name}.new").write_text(content)
        (folder / f"{name}.new").replace(folder / name)  # atomic: a reader sees the old or the new file
    return folder


def converted(model: str, backend: str, precision: str) -> Path:
    """Return what a backend loads for a model in the test cache that has been converted for it.

    Models of other tests may be in the cache as well.
    """
    (format_,) = (one.model_format for one in backends() if one.name == backend)
    assert format_ is not None
    path = anyio.run(ModelStore(CACHE / "models", sources=()).converted, model, format_, precision)
    assert path is not None, f"{model} has not been converted"
    return path


def batches(model: Path | str) -> list[dict[str, Any]]:
    """Return the batches that the toy engine received, in order."""
    return _notes(Path(model) / "batches.jsonl")


def computed_windows(model: Path | str) -> list[dict[str, Any]]:
    """Return the windows that the toy engine began to compute, in order; the model must set `identify`."""
    return _notes(Path(model) / "windows.jsonl")


def loads(model: Path | str) -> list[dict[str, Any]]:
    """Return a record of each load of the toy engine."""
    return _notes(Path(model) / "loads.jsonl")


def _notes(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    # The last line may still be incomplete.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def runtime_with(client: Client, model: str) -> dict[str, Any]:
    """Return a model's only runtime, as the daemon shows it."""
    (found,) = (one for one in client.request("runtimes.list") if one["model"] == model)
    return dict(found)


def until(
    condition: Callable[[], object], what: str = "that", timeout_s: float = LIMIT_S, every_s: float = 0.005
) -> None:
    """Poll every `every_s` seconds until another process makes the condition true."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s} s for {what}"
        time.sleep(every_s)


def write_tone(
    path: Path, seconds: float, *, rate: int = 16_000, channels: int = 1, hz: float = 440.0
) -> Path:
    """Write a WAV file with a tone, which decodes but contains no speech (so use `vad=False`)."""
    samples = (int(8000 * math.sin(2 * math.pi * hz * index / rate)) for index in range(int(seconds * rate)))
    data = b"".join(struct.pack("<h", sample) * channels for sample in samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def run_python(code: str, *arguments: str, env: Mapping[str, str], paths: Sequence[str] = ()) -> str:
    """Run code in a fresh interpreter; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**env, "PYTHONPATH": os.pathsep.join(paths)} if paths else dict(env),
        capture_output=True,
        check=True,
        text=True,
        timeout=LIMIT_S,
    )
    return done.stdout
