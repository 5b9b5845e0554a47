"""Asynchronous clients and a daemon that hangs; for the synchronous client see `test_wire.py`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from scripted_daemon import ScriptedDaemon
from toy_runtime import until
from whisperd.client import aconnect, asynchronous
from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the scripted daemon needs a Unix socket"),
]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    hangs = threading.Event()
    daemon = ScriptedDaemon(tmp_path / "socket", daemon_status=lambda _: hangs.wait())
    yield daemon
    hangs.set()
    daemon.close()


@pytest.mark.parametrize("size_bytes", [0, 2**24], ids=["sends nothing", "reads nothing"])
async def test_a_daemon_that_hangs_raises_an_error(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    monkeypatch.setattr(asynchronous, "PING_AFTER_S", 0.01)
    with anyio.fail_after(LIMIT_S):
        async with aconnect(daemon.path, start=False) as client:
            monkeypatch.setattr(asynchronous, "PATIENCE_S", 0.05)
            codes: list[str] = []

            async def ask(**params: bytes) -> None:
                with pytest.raises(WhisperdError) as caught:
                    await client.request("daemon.status", **params)
                codes.append(caught.value.code)

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(lambda: ask(data=bytes(size_bytes)))
            assert codes == ["daemon.not_responding"] * 3


async def test_a_daemon_that_answers_pings_may_take_any_time(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynchronous, "PING_AFTER_S", 0.01)
    async with aconnect(daemon.path, start=False) as client:
        await client.request("events.subscribe", topics=["jobs"])  # a second subscription, without a reader
        types: list[str] = []

        async def follow() -> None:
            types.extend([event["type"] async for event in client.follow("job")])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await until(lambda: len([one for one in daemon.requests if one[0] == "session.ping"]) >= 3)
            daemon.publish(type="transcription.segment", id="job")
            daemon.publish(type="transcription.completed", id="job")
        assert types == ["transcription.segment", "transcription.completed"]


async def test_an_idle_client_sends_no_pings(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "PING_AFTER_S", 0.001)
    async with aconnect(daemon.path, start=False):
        await anyio.sleep(0.05)
    assert daemon.requests == []
