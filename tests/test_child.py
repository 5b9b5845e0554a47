"""Child processes that die while they are being written to, and those that cannot be killed."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from types import NoneType

import anyio
import psutil
import pytest

from toy_runtime import until
from whisperd import child
from whisperd.child import kill, open_child
from whisperd.rpc.peer import PeerClosed
from whisperd.rpc.served_child import open_served_child
from whisperd.watch.command import run_command

SLEEP = [sys.executable, "-c", "import time; time.sleep(10)"]


def test_the_broken_pipe_of_a_dead_child_is_not_reported_as_a_bug() -> None:
    problems: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, problem: problems.append(problem))
        async with open_child([sys.executable, "-c", "input()"]) as process:
            assert process.stdin is not None
            kill(process)
            with pytest.raises(anyio.BrokenResourceError):
                while True:
                    await process.stdin.send(bytes(2**20))

    asyncio.run(main())
    gc.collect()
    assert problems == []


@pytest.fixture
def unkillable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No child can be killed: it runs as another user, or waits for a driver that does not respond."""
    if os.name != "posix":
        pytest.skip("needs process groups")

    def refuse(_group: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(child, "END_TIMEOUT_S", 0.05)


@pytest.mark.anyio
async def test_a_child_that_cannot_be_killed_is_left_behind(
    unkillable: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_child(SLEEP, stderr=subprocess.DEVNULL) as process:
        pass
    assert process.returncode is None, "it was waited for"
    assert f"process {process.pid} cannot be killed" in caplog.text
    process.kill()
    await process.aclose()


def waiting_threads() -> list[threading.Thread]:
    """Return the threads in which asyncio waits for the ends of children, before Python 3.12."""
    return [one for one in threading.enumerate() if one.name.startswith("asyncio-waitpid")]


@pytest.mark.anyio
async def test_a_command_that_cannot_be_killed_is_left_behind(unkillable: None) -> None:
    ended = await run_command(SLEEP, 0.05, {})
    (process,) = (one for one in psutil.Process().children() if one.cmdline() == SLEEP)
    process.kill()
    assert not ended.ok and "killed after" in ended.words
    await until(lambda: not psutil.pid_exists(process.pid) and not waiting_threads())
    await anyio.wait_all_tasks_blocked()


@pytest.mark.anyio
async def test_the_end_of_a_child_that_cannot_be_killed_is_not_waited_for(
    unkillable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker whose GPU driver hangs while the system closes its files."""
    for timeout in ("DEATH_TIMEOUT_S", "END_TIMEOUT_S"):
        monkeypatch.setattr(f"whisperd.rpc.served_child.{timeout}", 0.05)
    code = "import os, time; os.close(1); time.sleep(10)"
    async with open_served_child("worker", [sys.executable, "-c", code], os.environ) as served:
        await served.closed.wait()
        assert await served.ended() == "signal SIGKILL"
        assert served.was_killed
        os.kill(served.pid, signal.SIGKILL)
        await served._process.wait()


@pytest.mark.anyio
async def test_a_request_to_a_killed_child_does_not_wait_for_its_end(unkillable: None) -> None:
    """As a worker that loads a model from a network folder that no longer responds."""
    async with open_served_child("worker", SLEEP, os.environ) as served, anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(PeerClosed):
                await served.request("load", None, NoneType)

        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        served.kill()
        await anyio.wait_all_tasks_blocked()
        assert served.closed.is_set(), "its end is waited for"
        os.kill(served.pid, signal.SIGKILL)
        await served._process.wait()
