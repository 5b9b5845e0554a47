"""Concurrent requests on the same object: each client gets a correct answer, and the action happens once."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from whisperd.client import AsyncClient, aconnect
from whisperd.daemon.methods import METHODS
from whisperd.daemon.methods.jobs import ClearParams, JobParams
from whisperd.daemon.service import Call
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.options import JobOptions
from whisperd.jobs.segments import Transcript
from whisperd.rpc.errors import WhisperdError
from whisperd.tasks import open_task_group
from whisperd_testing import LIMIT_S, RunningDaemon, toy_model, write_tone

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon whose default runtime keeps loading throughout the tests, so that its jobs wait."""
    folder = tmp_path_factory.mktemp("daemon")
    daemon = RunningDaemon(folder).start()
    daemon.make_default(toy_model(folder / "toy", load_s=1000))
    yield daemon
    daemon.close()


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "tone.wav", 1.0)


async def codes_of(*requests: Awaitable[Any]) -> list[str]:
    """Send all requests concurrently; return the error code of each, in order, or "" for success."""
    codes = [""] * len(requests)

    async def ask(place: int, request: Awaitable[Any]) -> None:
        try:
            await request
        except WhisperdError as error:
            codes[place] = error.code

    async with open_task_group() as tasks:
        for place, request in enumerate(requests):
            tasks.start_soon(ask, place, request)
    return codes


def with_client(daemon: RunningDaemon, act: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """Act as a client of a daemon, and check that the daemon logs no traceback meanwhile."""

    async def run() -> None:
        async with aconnect(daemon.socket, start=False) as client:
            await act(client)

    anyio.run(run)
    assert "Traceback" not in daemon.log()


async def cancelled_job(client: AsyncClient, tone: Path) -> str:
    job = await client.submit(tone, detach=True, vad=False)
    assert (await client.jobs.cancel(job))["status"] == "cancelled"
    return job


def test_concurrent_retries_retry_a_job_once(busy: RunningDaemon, tone: Path) -> None:
    async def act(client: AsyncClient) -> None:
        for _ in range(3):
            job = await cancelled_job(client, tone)
            codes = await codes_of(*[client.jobs.retry(job) for _ in range(5)])
            assert sorted(codes) == ["", *["job.not_retryable"] * 4]
            assert (await client.jobs.cancel(job))["status"] == "cancelled"

    with_client(busy, act)


def test_an_upload_is_used_by_only_one_job(busy: RunningDaemon, tone: Path) -> None:

    async def act(client: AsyncClient) -> None:
        upload = (await client.request("uploads.create"))["id"]
        await client.request("uploads.append", id=upload, data=tone.read_bytes())
        submit = partial(client.request, "jobs.submit", input={"upload": upload}, options={"vad": False})
        codes = await codes_of(*[submit() for _ in range(5)])
        assert sorted(codes) == ["", *["upload.unknown"] * 4]

    with_client(busy, act)


def test_a_cleared_job_is_not_retried(busy: RunningDaemon, tone: Path) -> None:
    async def act(client: AsyncClient) -> None:
        for _ in range(10):
            job = await cancelled_job(client, tone)
            retried, cleared = await codes_of(client.jobs.retry(job), client.jobs.clear([job]))
            (shown,) = await codes_of(client.jobs.show(job))
            assert (retried, cleared, shown) in {
                ("", "job.not_over", ""),
                ("job.unknown", "", "job.unknown"),
            }
            if not retried:
                await client.jobs.cancel(job)

    with_client(busy, act)


def test_removing_a_watch_leaves_no_jobs(busy: RunningDaemon, tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    for number in range(12):
        write_tone(folder / f"{number}.wav", 0.1)

    async def act(client: AsyncClient) -> None:
        for tries in range(5):
            watch = await client.watch.add(folder, options={"vad": False})
            await until_queued(client, some=True)
            for _ in range(tries):
                await client.watch.show(watch["id"])
            await client.watch.remove(watch["id"])
            await until_queued(client, some=False)

    with_client(busy, act)


async def until_queued(client: AsyncClient, *, some: bool) -> None:
    with anyio.fail_after(LIMIT_S):
        while bool((await client.daemon.status())["jobs"]["queued"]) != some:
            await anyio.sleep(0)


@pytest.mark.anyio
async def test_a_long_text_is_formatted_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def verbose(_: Transcript) -> dict[str, Any]:
        return {"in_loop": threading.current_thread() is threading.main_thread()}

    async def transcript(_: Job) -> Any:
        return object()

    monkeypatch.setattr("whisperd.daemon.methods.jobs.verbose", verbose)
    job = Job(id="1", path="a", input=JobInput(path="a"), options=JobOptions(), runtime="base")
    job.over.set()
    jobs = SimpleNamespace(get=lambda _: job, transcript=transcript)
    call = cast(Call, SimpleNamespace(service=SimpleNamespace(jobs=jobs)))
    assert await METHODS["jobs.wait"](call, JobParams(id="1")) == {"in_loop": False}


@pytest.mark.anyio
async def test_disconnecting_during_a_purge_does_not_interrupt_it() -> None:
    erasing, done = anyio.Event(), []

    async def purge(*_: object, **__: object) -> int:
        erasing.set()
        await anyio.sleep(0)
        return 1

    async def note(what: str) -> None:
        await anyio.sleep(0)
        done.append(what)

    keeper = SimpleNamespace(purge=purge, erase=partial(note, "erased"))
    ticket = SimpleNamespace(saved=partial(note, "saved"))
    jobs = SimpleNamespace(ended_before=lambda _: ["job"], forget=lambda jobs: (jobs, ticket))
    call = cast(Call, SimpleNamespace(service=SimpleNamespace(jobs=jobs, job_keeper=keeper)))
    async with open_task_group() as tasks:
        tasks.start_soon(METHODS["jobs.clear"], call, ClearParams(purge=True))
        await erasing.wait()
        tasks.cancel_scope.cancel()
    assert done == ["saved", "erased"]
