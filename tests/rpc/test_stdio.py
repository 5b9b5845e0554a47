"""The serving end in a child process, with a real child."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from whisperd.child import open_child
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.peer import Peer, PeerClosed, open_peer
from whisperd.tasks import open_task_group
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio

CHILD = Path(__file__).with_name("stdio_child.py")
Notifications = list[tuple[str, dict[str, Any]]]


@asynccontextmanager
async def open_served(concurrency: int = 1, notified: Notifications | None = None) -> AsyncIterator[Peer]:
    async def note(method: str, params: list[Any]) -> None:
        if notified is not None:
            notified.append((method, params[0]))

    command = [sys.executable, str(CHILD), str(concurrency)]
    async with open_child(command, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        async with open_peer(process.stdin, process.stdout, note) as peer:
            yield peer


async def test_requests_are_answered_one_after_the_other() -> None:
    async with open_served() as peer:
        for text in ("one", "two", "x" * 1_000_000):
            assert await peer.request("echo", {"text": text}) == {"text": text}


async def test_a_request_may_have_any_number_of_values() -> None:
    """What was found in a recording of which a thousand parts are transcribed has more than 20,000."""
    async with open_served() as peer:
        assert await peer.request("add", {"numbers": [1] * 100_000}) == 100_000


async def test_output_of_libraries_does_not_corrupt_the_stream() -> None:
    async with open_served() as peer:
        assert await peer.request("noisy") is None
        assert await peer.request("echo", {"text": "clear"}) == {"text": "clear"}


@pytest.mark.skipif(sys.platform == "win32", reason="core dumps")
async def test_a_crash_leaves_no_core_dump() -> None:
    """It would be as large as the model, and contain speech."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        async with open_served() as peer:
            assert await peer.request("core_limit") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


async def test_notifications_arrive_in_order_before_the_answer() -> None:
    notified: Notifications = []
    async with open_served(notified=notified) as peer:
        assert await peer.request("count") == 1000
        assert notified == [("number", {"value": number}) for number in range(1000)]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("refuse", None, "test.refused"),
        ("refuse_strangely", None, "test.refused"),
        ("fail", None, "process.failed"),
        ("nothing", None, "rpc.unknown_method"),
        ("echo", {"text": 1}, "rpc.invalid_params"),
        ("echo", {"text": "", "more": ""}, "rpc.invalid_params"),
    ],
)
async def test_errors_are_sent_as_answers(method: str, params: object, code: str) -> None:
    async with open_served() as peer:
        with pytest.raises(WhisperdError) as caught:
            await peer.request(method, params)
        assert caught.value.code == code
        assert await peer.request("echo", {"text": "still here"}) == {"text": "still here"}


async def test_requests_run_concurrently_up_to_the_limit() -> None:
    answers = []

    async def meet(peer: Peer) -> None:
        answers.append(await peer.request("meet"))

    async with open_served(concurrency=2) as peer, open_task_group() as tasks:
        tasks.start_soon(meet, peer)
        tasks.start_soon(meet, peer)
    assert answers == ["met", "met"]


async def test_the_process_ends_when_its_input_closes_even_during_a_request() -> None:
    hanging = anyio.Event()

    async def note(method: str, _params: list[Any]) -> None:
        hanging.set()

    async with open_child([sys.executable, str(CHILD), "1"], stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None and process.stdout is not None
        async with open_peer(process.stdin, process.stdout, note) as peer, open_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(PeerClosed):
                    await peer.request("hang")

            tasks.start_soon(ask)
            await hanging.wait()
            await process.stdin.aclose()
            with anyio.fail_after(LIMIT_S):
                assert await process.wait() == 0


async def test_an_invalid_stream_ends_the_process() -> None:
    async with open_child([sys.executable, str(CHILD), "1"], stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        await process.stdin.send(b"\xc1\xc1")
        with anyio.fail_after(LIMIT_S):
            assert await process.wait() == 1
