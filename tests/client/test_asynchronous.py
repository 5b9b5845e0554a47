"""`whisperd.aconnect()` against a real daemon."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import whisperd
from scripted_daemon import ScriptedDaemon
from whisperd.client import AsyncClient, Segment, Transcript, aconnect
from whisperd_testing import LIMIT_S, RunningDaemon, batches

pytestmark = [pytest.mark.real, pytest.mark.anyio]

TEXT = "transcribe 2.00 s"


async def until_begun(model: Path) -> None:
    with anyio.fail_after(LIMIT_S):
        while not batches(model):
            await anyio.sleep(0.01)


async def until_status(client: AsyncClient, model: Path, status: str) -> None:
    with anyio.fail_after(LIMIT_S):
        while [
            job["status"] for job in await client.jobs.list() if job["options"]["model"] == str(model)
        ] != [status]:
            await anyio.sleep(0.01)


async def cancelled_at(
    method: bytes,
    client: AsyncClient,
    work: Callable[[], Coroutine[Any, Any, object]],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """Run work and cancel it once it has sent a request of this method: by a scope, or as asyncio does."""
    write, scope, asked = client._peer._write, anyio.CancelScope(), anyio.Event()

    async def write_and_tell(data: bytes) -> None:
        await write(data)
        if method in data:
            scope.cancel() if how == "scope" else asked.set()

    monkeypatch.setattr(client._peer, "_write", write_and_tell)
    if how == "scope":
        with scope:
            await work()
        assert scope.cancelled_caught
    else:
        task = asyncio.create_task(work())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("kind", ["text", "path", "bytes", "file"])
async def test_every_kind_of_source_is_accepted(shared: RunningDaemon, tone: Path, kind: str) -> None:
    content = tone.read_bytes()
    source = {"text": str(tone), "path": tone, "bytes": content, "file": io.BytesIO(content)}[kind]
    async with aconnect(shared.socket, start=False) as client:
        transcript = await client.transcribe(source, vad=False)  # type: ignore[arg-type]
    assert (transcript.text, transcript.duration) == (TEXT, 2.0)


async def test_segments_are_streamed(shared: RunningDaemon, long_tone: Path) -> None:
    async with aconnect(shared.socket, start=False) as client:
        segments = [segment async for segment in client.transcribe(long_tone, stream=True, vad=False)]
        whole = await client.transcribe(long_tone, vad=False)
    assert tuple(segments) == whole.segments
    assert len(segments) > 3


async def test_a_stream_does_not_fetch_the_result_as_well(
    shared: RunningDaemon, long_tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aconnect(shared.socket, start=False) as client:
        request, asked = client._peer.request, list[str]()

        async def note(method: str, params: object = None) -> Any:
            asked.append(method)
            return await request(method, params)

        monkeypatch.setattr(client._peer, "request", note)
        assert [segment async for segment in client.transcribe(long_tone, stream=True, vad=False)]
    assert asked == ["jobs.submit", "events.subscribe", "events.unsubscribe"]


async def test_a_result_is_read_in_a_thread(
    shared: RunningDaemon, tone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a day of audio would stop the event loop of the program."""
    read, threads = Transcript.from_wire, list[int]()

    def note(wire: Any) -> Transcript:
        threads.append(threading.get_ident())
        return read(wire)

    monkeypatch.setattr(Transcript, "from_wire", note)
    async with aconnect(shared.socket, start=False) as client:
        await client.transcribe(tone, vad=False)
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


async def test_concurrent_transcriptions(shared: RunningDaemon, tone: Path, long_tone: Path) -> None:
    transcripts: list[str] = []
    streams: list[list[Segment]] = []

    async def whole(client: AsyncClient) -> None:
        transcripts.append((await client.transcribe(tone, vad=False)).text)

    async def stream(client: AsyncClient) -> None:
        segments = client.transcribe(long_tone, stream=True, vad=False, priority="bulk")
        streams.append([segment async for segment in segments])

    async with aconnect(shared.socket, start=False) as client, anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(whole, client)
            tasks.start_soon(stream, client)
    assert transcripts == [TEXT] * 4
    assert len(streams) == 4
    assert all(one == streams[0] for one in streams)


async def test_hundreds_of_tasks_share_a_client(
    shared: RunningDaemon, toy: Callable[..., str], tone: Path
) -> None:
    model, content = toy(load_s=600), tone.read_bytes()

    async def stream(client: AsyncClient) -> None:
        async for _ in client.transcribe(tone, stream=True, model=model):
            raise AssertionError("the model is never loaded")

    async with aconnect(shared.socket, start=False) as client, anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(partial(client.transcribe, content, model=model))
            tasks.start_soon(stream, client)
        with anyio.fail_after(LIMIT_S):
            while len(await client.jobs.list("queued")) < 200:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_of_the_daemon_is_raised(shared: RunningDaemon, tmp_path: Path, stream: bool) -> None:
    (tmp_path / "text.wav").write_text("no audio at all")
    async with aconnect(shared.socket, start=False) as client:
        with pytest.raises(whisperd.WhisperdError) as caught:
            if stream:
                async for _ in client.transcribe(tmp_path / "text.wav", stream=True):
                    raise AssertionError("there must be no segment")
            else:
                await client.transcribe(tmp_path / "text.wav")
    assert caught.value.code == "audio.unsupported"


@pytest.mark.parametrize("error", [ZeroDivisionError(), ExceptionGroup("tasks", [ZeroDivisionError()])])
async def test_an_error_of_the_program_itself_is_raised_unchanged(
    shared: RunningDaemon, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught:
        async with aconnect(shared.socket, start=False):
            raise error
    assert caught.value is error


async def test_an_error_of_a_task_that_asyncio_cancels_is_raised_unchanged(shared: RunningDaemon) -> None:
    async def stop_when_cancelled() -> None:
        async with aconnect(shared.socket, start=False):
            is_open.set()
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                raise ZeroDivisionError from None

    is_open = anyio.Event()
    task = asyncio.create_task(stop_when_cancelled())
    await is_open.wait()
    task.cancel()
    with pytest.raises(ZeroDivisionError):
        await task


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_the_task_cancels_the_job(
    shared: RunningDaemon, held: Path, tone: Path, stream: bool
) -> None:
    async def work(client: AsyncClient) -> None:
        if stream:
            async for _ in client.transcribe(tone, stream=True, model=held, vad=False):
                pass
        else:
            await client.transcribe(tone, model=held, vad=False)

    async with aconnect(shared.socket, start=False) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, client)
            await until_begun(held)
            tasks.cancel_scope.cancel()
        (job,) = [job for job in await client.jobs.list() if job["options"]["model"] == str(held)]
        assert job["status"] == "cancelled"
        assert (await client.transcribe(tone, vad=False)).text == TEXT


@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("live", [False, True])
async def test_cancelling_during_a_submission_leaves_no_job(
    shared: RunningDaemon, held: Path, tone: Path, monkeypatch: pytest.MonkeyPatch, live: bool, how: str
) -> None:
    async def work(client: AsyncClient) -> None:
        if live:
            async with client.dictate(model=held) as dictation:
                await dictation.push(bytes(3200))
        else:
            await client.transcribe(tone, model=held, vad=False)

    async with aconnect(shared.socket, start=False) as client:
        await cancelled_at(b"jobs.submit", client, lambda: work(client), monkeypatch, how)
        await until_status(client, held, "cancelled")


@pytest.mark.parametrize("how", ["scope", "task"])
async def test_cancelling_during_the_creation_of_an_upload_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    daemon = ScriptedDaemon(tmp_path / "socket", uploads_create={"id": "begun"}, uploads_delete={})
    async with aconnect(daemon.path, start=False) as client:
        await cancelled_at(b"uploads.create", client, lambda: client.transcribe(b"sound"), monkeypatch, how)
    daemon.close()
    assert daemon.requests == [("uploads.create", {}), ("uploads.delete", {"id": "begun"})]


@pytest.mark.parametrize("how", ["scope", "task"])
async def test_cancelling_during_a_subscription_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    daemon = ScriptedDaemon(tmp_path / "socket", events_subscribe={"subscription": 7})
    async with aconnect(daemon.path, start=False) as client:
        events = client.follow("a job")
        await cancelled_at(b"events.subscribe", client, lambda: anext(events), monkeypatch, how)
    daemon.close()
    assert daemon.requests[1:] == [("events.unsubscribe", {"subscription": 7})]


@pytest.mark.parametrize("how", ["scope", "task"])
async def test_a_cancelled_task_does_not_wait_for_a_daemon_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    may_answer = threading.Event()
    daemon = ScriptedDaemon(tmp_path / "socket", uploads_create=lambda _: may_answer.wait(LIMIT_S))
    monkeypatch.setattr("whisperd.client.asynchronous.CLEAN_UP_TIMEOUT_S", 0.1)
    async with aconnect(daemon.path, start=False) as client:
        await cancelled_at(b"uploads.create", client, lambda: client.transcribe(b"sound"), monkeypatch, how)
        assert not client._peer.closed.is_set(), "the client has given up the daemon meanwhile"
        may_answer.set()
    daemon.close()


async def test_refused_recordings_leave_no_uploads(shared: RunningDaemon) -> None:
    async with aconnect(shared.socket, start=False) as client:
        with pytest.raises(whisperd.WhisperdError) as caught:
            await client.transcribe(b"")
        assert caught.value.code == "audio.empty"
        assert not list((shared.folder / "state" / "uploads").iterdir())


class Silent:
    """A file whose `read` blocks until `is_over` is set."""

    def __init__(self) -> None:
        self.is_read, self.is_over = threading.Event(), threading.Event()
        self.was_awaited = False

    def read(self, count: int, /) -> bytes:
        self.is_read.set()
        self.was_awaited = not self.is_over.wait(LIMIT_S)
        return b""


async def test_a_cancelled_task_does_not_wait_for_its_file(shared: RunningDaemon) -> None:
    file = Silent()
    async with aconnect(shared.socket, start=False) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.transcribe, file)
        assert await anyio.to_thread.run_sync(file.is_read.wait, LIMIT_S)
        tasks.cancel_scope.cancel()
    assert not file.was_awaited
    file.is_over.set()


async def test_leaving_the_iteration_early_cancels_the_job(
    shared: RunningDaemon, toy: Callable[..., str], ten_minutes: Path
) -> None:
    model = Path(toy("slow", window_s=0.3))
    async with aconnect(shared.socket, start=False) as client:
        async with aclosing(client.transcribe(ten_minutes, stream=True, model=model, vad=False)) as segments:
            async for segment in segments:
                assert segment.id == 0
                break
        (job,) = [job for job in await client.jobs.list() if job["options"]["model"] == str(model)]
        assert job["status"] == "cancelled"


async def test_leaving_the_iteration_without_closing_it_cancels_the_job(
    shared: RunningDaemon, toy: Callable[..., str], ten_minutes: Path
) -> None:
    model = Path(toy("slow", window_s=0.3))
    async with aconnect(shared.socket, start=False) as client:
        async for _ in client.transcribe(ten_minutes, stream=True, model=model, vad=False):
            break
        await until_status(client, model, "cancelled")


async def test_disconnecting_cancels_attached_jobs_only(
    shared: RunningDaemon, held: Path, tone: Path
) -> None:
    async with aconnect(shared.socket, start=False) as client:
        attached = await client.submit(tone, model=held, vad=False)
        detached = await client.submit(tone, model=held, vad=False, detach=True)
    async with aconnect(shared.socket, start=False) as client:
        with anyio.fail_after(LIMIT_S):
            while (await client.jobs.show(attached))["status"] != "cancelled":
                await anyio.sleep(0.01)
        (held / "hold").unlink()
        assert (await client.jobs.wait(detached))["text"] == TEXT


async def test_following_leaves_no_subscription(shared: RunningDaemon, tone: Path) -> None:
    """A connection may have 64 subscriptions."""
    async with aconnect(shared.socket, start=False) as client:
        job = await client.submit(tone, vad=False)
        for _ in range(70):
            events = [event async for event in client.follow(job)]
            assert events[-1]["type"] == "transcription.completed"
        assert not client._listeners


async def test_a_closed_client_raises_an_error(shared: RunningDaemon) -> None:
    async with aconnect(shared.socket, start=False) as client:
        pass
    for ask in (client.daemon.status(), anext(client.follow("job"))):
        with pytest.raises(whisperd.WhisperdError) as caught:
            await ask
        assert caught.value.code == "client.closed"


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_killed_daemon_raises_an_error(
    make_daemon: Callable[..., RunningDaemon], held: Path, tone: Path, stream: bool
) -> None:
    daemon = make_daemon().start()

    async def work(client: AsyncClient) -> None:
        with pytest.raises(whisperd.WhisperdError) as caught:
            if stream:
                async for _ in client.transcribe(tone, stream=True, model=held, vad=False):
                    pass
            else:
                await client.transcribe(tone, model=held, vad=False)
        assert caught.value.code == "daemon.connection_lost"

    with anyio.fail_after(LIMIT_S):
        async with aconnect(daemon.socket, start=False) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(work, client)
            await until_begun(held)
            daemon.signal(signal.SIGKILL)
    daemon.wait()


async def test_connecting_without_a_daemon_raises_an_error(make_daemon: Callable[..., RunningDaemon]) -> None:
    with pytest.raises(whisperd.WhisperdError) as caught:
        async with aconnect(make_daemon().socket, start=False):
            raise AssertionError("no daemon must answer")
    assert caught.value.code == "daemon.unreachable"


def test_requests_are_cancelled_when_asyncio_ends() -> None:
    problems: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, problem: problems.append(problem))
        begun = AsyncClient._begun(None, anyio.sleep_forever(), "jobs.cancel")  # type: ignore[arg-type]
        task = asyncio.create_task(begun)
        await anyio.wait_all_tasks_blocked()
        assert not task.done()

    asyncio.run(main())
    assert problems == []
