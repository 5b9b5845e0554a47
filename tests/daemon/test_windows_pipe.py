r"""Windows only: the named pipe `\\.\pipe\whisperd-USER`, and children that end with the daemon."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from whisperd_testing import LIMIT_S, RunningDaemon, until

if sys.platform != "win32":
    pytest.skip("Windows only", allow_module_level=True)

import anyio

from whisperd import win32
from whisperd.child import open_child
from whisperd.client import aconnect
from whisperd.daemon.pipe_listener import claim_pipe
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.pipe import PipeConnection, is_listened_on
from whisperd.rpc.transport import connect_socket


@pytest.fixture
def name() -> str:
    """The name of a pipe unique to this test."""
    return rf"\\.\pipe\whisperd-test-{secrets.token_hex(6)}"


@pytest.fixture
def daemon(make_daemon: Callable[..., RunningDaemon], name: str) -> RunningDaemon:
    made = make_daemon()
    made.socket = made.env["WHISPERD_SOCKET"] = name
    return made


def test_a_client_is_answered(daemon: RunningDaemon) -> None:
    daemon.start()
    with daemon.connect() as first, daemon.connect() as second:
        assert first.daemon.status()["pid"] == daemon.pid
        assert second.daemon.status()["clients"] == 2
    upload = b"x" * 3_000_000
    with daemon.connect() as client:
        upload_id = client.request("uploads.create")["id"]
        for offset in range(0, len(upload), 1_000_000):
            piece = upload[offset : offset + 1_000_000]
            size = client.request("uploads.append", id=upload_id, data=piece)["size"]
        assert size == len(upload)


@pytest.mark.anyio
async def test_an_asynchronous_client_is_answered(daemon: RunningDaemon) -> None:
    await anyio.to_thread.run_sync(daemon.start)
    async with aconnect(daemon.socket, start=False) as client:
        assert (await client.daemon.status())["pid"] == daemon.pid


def test_a_client_starts_the_daemon(daemon: RunningDaemon) -> None:
    clients = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "whisperd.cli.main", "daemon", "start", "--json"],
            env=daemon.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    answers = [client.communicate(timeout=LIMIT_S)[0] for client in clients]
    assert [client.returncode for client in clients] == [0] * 5
    assert len({answer.partition('"pid": ')[2].partition(",")[0] for answer in answers}) == 1
    assert daemon.ctl("daemon", "stop").status == 0
    assert daemon.ctl("daemon", "status").status == 3


def test_only_one_daemon_runs(daemon: RunningDaemon) -> None:
    daemon.start()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "whisperd"], env=daemon.env, capture_output=True, check=False
    )
    assert done.returncode == 3
    assert b"is running" in done.stderr


def test_only_the_owner_can_use_the_pipe(name: str) -> None:
    async def check() -> None:
        async with claim_pipe(name):
            connection = connect_socket(name)
            assert isinstance(connection, PipeConnection)
            connection.close()
            with pytest.raises(WhisperdError) as caught:
                async with claim_pipe(name):
                    pass
            assert caught.value.code == "daemon.already_running"
        assert not is_listened_on(name)

    anyio.run(check)
    handle = win32.create_pipe(name, is_first=True)
    assert win32.owner_of(handle) == win32.current_user()
    with pytest.raises(PermissionError):
        win32.create_pipe(name, is_first=True)


@pytest.mark.anyio
async def test_a_grandchild_ends_with_its_parent() -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    async with open_child([sys.executable, "-c", code]) as process:
        assert process.stdout is not None
        grandchild = psutil.Process(int(await process.stdout.receive()))
    _, alive = psutil.wait_procs([grandchild], timeout=LIMIT_S)
    assert alive == []


def test_children_end_with_a_killed_daemon(
    daemon: RunningDaemon, toy: Callable[..., str], tmp_path: object
) -> None:
    daemon.start()
    with daemon.connect() as client:
        sound = daemon.folder / "speech.wav"
        sound.write_bytes(b"not audio")
        client.submit(sound, model=toy("endless", load_s=600))
        until(daemon.workers)
        children = daemon.children()
        assert daemon.process is not None
        daemon.process.kill()
        daemon.wait()
    _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert alive == []
