"""A single connection in isolation, with handlers made for the test."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgpack
import pytest
from anyio.abc import UNIXSocketStream

from whisperd.daemon.connection import Connection
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Request
from whisperd.settings import LimitSettings
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio

Handler = Callable[[], Awaitable[Any]]


class Client:
    """The other end of the connection."""

    def __init__(self, stream: UNIXSocketStream) -> None:
        self.stream = stream
        self._unpacker = msgpack.Unpacker()

    async def ask(self, message_id: int, method: str) -> None:
        await self.stream.send(msgpack.packb([0, message_id, method, []]))

    async def receive(self) -> Any:
        while True:
            for message in self._unpacker:
                return message
            self._unpacker.feed(await self.stream.receive())


@asynccontextmanager
async def served(**handlers: Handler) -> AsyncIterator[tuple[Connection, Client]]:
    async def dispatch(request: Request) -> Any:
        return await handlers[request.method]()

    ours, theirs = socket.socketpair()
    async with (
        await UNIXSocketStream.from_socket(ours) as stream,
        await UNIXSocketStream.from_socket(theirs) as client,
        anyio.create_task_group() as tasks,
    ):
        connection = Connection(stream, LimitSettings(), dispatch)

        async def serve() -> None:
            async with stream:
                await connection.serve()

        tasks.start_soon(serve)
        yield connection, Client(client)
        tasks.cancel_scope.cancel()


async def never() -> None:
    await anyio.sleep_forever()


async def at_once() -> str:
    return "done"


async def test_answers_are_sent_as_they_become_ready() -> None:
    gate = anyio.Event()

    async def later() -> str:
        await gate.wait()
        return "later"

    async with served(later=later, at_once=at_once) as (_, client):
        await client.ask(1, "later")
        await client.ask(2, "at_once")
        assert await client.receive() == [1, 2, None, "done"]
        gate.set()
        assert await client.receive() == [1, 1, None, "later"]


async def test_large_slow_requests_do_not_accumulate() -> None:
    """Nothing more is read from a client while requests as large as one whole message are in progress."""
    request = msgpack.packb([0, 1, "never", [b"x" * 1_000_000]])
    taken = 0
    enough = anyio.Event()

    async def flood(client: Client) -> None:
        nonlocal taken
        for message_id in range(100):
            await client.stream.send(request.replace(b"\x94\x00\x01", bytes([0x94, 0, message_id]), 1))
            taken += 1
            if taken == 4:
                enough.set()

    async with served(never=never) as (_, client), anyio.create_task_group() as tasks:
        tasks.start_soon(flood, client)
        await enough.wait()
        await anyio.sleep(0.5)  # enough time to read more
        assert taken <= 6
        tasks.cancel_scope.cancel()


async def test_a_bug_fails_only_its_request(caplog: pytest.LogCaptureFixture) -> None:
    async def mistaken() -> None:
        raise ZeroDivisionError

    async def unencodable() -> object:
        return object()

    async with served(mistaken=mistaken, unencodable=unencodable, at_once=at_once) as (_, client):
        for message_id, method in enumerate(("mistaken", "unencodable")):
            await client.ask(message_id, method)
            _, answered, error, _ = await client.receive()
            assert (answered, error["code"]) == (message_id, "internal.error")
            assert "daemon logs" in error["fix"]
        await client.ask(7, "at_once")
        assert await client.receive() == [1, 7, None, "done"]
    assert "ZeroDivisionError" in caplog.text


async def test_pending_requests_are_refused_when_the_daemon_stops() -> None:
    async with served(never=never) as (connection, client):
        await client.ask(1, "never")
        await client.ask(2, "never")
        await anyio.wait_all_tasks_blocked()
        await connection.finish()
        answers = [await client.receive(), await client.receive()]
        assert sorted(answered for _, answered, _, _ in answers) == [1, 2]
        assert {error["code"] for _, _, error, _ in answers} == {"daemon.stopping"}
        with pytest.raises(anyio.EndOfStream):
            await client.stream.receive()


async def test_an_answer_that_is_nearly_ready_is_still_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisperd.daemon.connection.LAST_WORDS_S", 60)

    async def soon() -> str:
        await anyio.wait_all_tasks_blocked()
        return "just in time"

    async with served(soon=soon) as (connection, client):
        await client.ask(1, "soon")
        await anyio.lowlevel.checkpoint()
        await connection.finish()
        assert await client.receive() == [1, 1, None, "just in time"]


async def test_a_disconnecting_client_gets_no_final_answers() -> None:
    cancelled = anyio.Event()

    async def noticed() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with served(noticed=noticed) as (_, client):
        await client.ask(1, "noticed")
        await anyio.wait_all_tasks_blocked()
        await client.stream.send_eof()
        with anyio.fail_after(LIMIT_S):
            await cancelled.wait()
        with pytest.raises(anyio.EndOfStream):
            await client.stream.receive()


async def test_a_refused_client_that_still_sends_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Node.js drops what it has received, such as the error, once it can no longer send."""
    monkeypatch.setattr("whisperd.daemon.connection.LAST_WORDS_S", 60)
    async with served() as (_, client):
        await client.stream.send(b"\xc1")
        assert (await client.receive())[:2] == [2, "error"]
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await client.ask(1, "at_once")


async def test_a_connection_does_not_keep_its_jobs_alive() -> None:
    """An editor stays connected for days and submits thousands of jobs."""

    class Job:
        pass

    async with served() as (connection, _):
        job: Any = Job()
        connection.attached_jobs.add(job)
        gone = weakref.ref(job)
        del job
        gc.collect()
        assert gone() is None
        assert len(connection.attached_jobs) == 0


async def test_an_error_keeps_its_fix_and_its_data() -> None:
    async def refuse() -> None:
        raise WhisperdError("noun.problem", "It went wrong.", "Do this.", {"detail": 3})

    async with served(refuse=refuse) as (_, client):
        await client.ask(1, "refuse")
        assert await client.receive() == [
            1,
            1,
            {"code": "noun.problem", "message": "It went wrong.", "fix": "Do this.", "data": {"detail": 3}},
            None,
        ]
