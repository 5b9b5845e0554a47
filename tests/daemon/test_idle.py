"""An idle daemon costs next to nothing: little memory, and not a single wake-up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from raw_client import RawClient, memory_bytes, until

from whisperd_testing import AUDIO, RunningDaemon, run_python

MakeDaemon = Callable[..., RunningDaemon]

MAX_MEMORY_BYTES = 60 * 2**20
WATCHED_S = 3.0
ARENA_BYTES = 64 * 2**20

FORBIDDEN = {
    "av", "ctranslate2", "faster_whisper", "huggingface_hub", "httpx", "numpy", "onnxruntime", "pip",
    "requests", "tokenizers", "torch",
}  # fmt: skip
"""Libraries that belong in a worker, a decoder or a download, and not in the daemon."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts wake-ups")


def wake_ups(pid: int) -> int:
    """Return how often the threads of a process have been scheduled."""
    switches = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return switches


def check_asleep(*pids: int) -> None:
    """Wait until the processes come to rest: not a single wake-up within `WATCHED_S` seconds."""

    def is_asleep() -> bool:
        before = [wake_ups(pid) for pid in pids]
        time.sleep(WATCHED_S)
        return [wake_ups(pid) for pid in pids] == before

    until(is_asleep)


def arenas(pid: int) -> int:
    """Count glibc's arenas of single threads: the reservation of each ends at a multiple of 64 MiB."""
    mappings = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return sum(
        access == "---p" and int(addresses.split("-")[1], 16) % ARENA_BYTES == 0
        for addresses, access, *_ in mappings
    )


@linux
def test_a_daemon_that_has_just_started_is_small(daemon: RunningDaemon) -> None:
    assert memory_bytes(daemon) < MAX_MEMORY_BYTES
    threads = psutil.Process(daemon.pid).num_threads()
    assert threads <= 3, (
        "the main thread, the database reader, and the one that checks for a battery now and then"
    )
    assert not arenas(daemon.pid), "all threads must share one arena"


@linux
def test_a_daemon_with_waiting_clients_sleeps(daemon: RunningDaemon) -> None:
    with RawClient(daemon) as listener, RawClient(daemon):
        listener.request("events.subscribe", {"topics": ["jobs", "runtimes", "natives", "models"]})
        check_asleep(daemon.pid)


@linux
@pytest.mark.real
def test_a_daemon_sleeps_after_unloading_its_model(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(toy=False)
    daemon.settings("[runtime]\nkeep_alive_s = 0\n")
    daemon.start()
    with daemon.connect() as client:
        for _ in range(5):
            client.transcribe((AUDIO / "jfk.flac").read_bytes(), model="tiny.en")
    until(lambda: not daemon.children())
    assert memory_bytes(daemon) < MAX_MEMORY_BYTES
    check_asleep(daemon.pid)


@linux
@pytest.mark.real
def test_a_daemon_with_a_loaded_model_sleeps(make_daemon: MakeDaemon) -> None:
    """The daemon sleeps, and so do its idle worker and decoder."""
    daemon = make_daemon(toy=False).start()
    with daemon.connect() as client:
        client.transcribe(AUDIO / "jfk.flac", model="tiny.en")
    until(lambda: len(daemon.children()) == 2)
    check_asleep(daemon.pid, *(child.pid for child in daemon.children()))


def test_importing_the_daemon_imports_nothing_heavy(daemon: RunningDaemon) -> None:
    listed = run_python("import sys, whisperd.daemon.main; print(*sys.modules)", env=daemon.env)
    modules = {name.partition(".")[0] for name in listed.split()}
    assert "whisperd" in modules
    assert modules & FORBIDDEN == set()


@pytest.mark.real
def test_working_imports_nothing_heavy(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """Lists all modules that a daemon has imported when it exits."""
    listed = tmp_path / "modules"
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "def write():\n"
        "    if 'whisperd.daemon.main' in sys.modules:\n"
        f"        with open({str(listed)!r}, 'w') as file: print(*sys.modules, file=file)\n"
        "atexit.register(write)\n"
    )
    daemon = make_daemon(toy=False, env={"PYTHONPATH": str(tmp_path)}).start()
    with daemon.connect() as client:
        assert client.transcribe(AUDIO / "jfk.flac", model="tiny.en").text
        client.models.available()
        client.natives.list()
        client.models.verify("tiny.en")
        client.daemon.status()
        client.daemon.stop()
    assert daemon.wait() == 0
    modules = {name.partition(".")[0] for name in listed.read_text().split()}
    assert "whisperd" in modules
    assert modules & FORBIDDEN == set()
