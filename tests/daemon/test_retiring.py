"""Expired jobs and leftovers are removed periodically, even after a failure."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from whisperd.daemon import resuming
from whisperd.daemon.service import Service
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.options import JobOptions
from whisperd.rpc.errors import WhisperdError
from whisperd.store import Ticket

pytestmark = pytest.mark.anyio


async def test_a_failed_deletion_keeps_nothing_else_from_being_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resuming, "RETIRE_INTERVAL_S", 0.0)
    deleted: list[str] = []
    failures = [WhisperdError("disk.full", "There is no room.", ""), RuntimeError("a mistake")]
    has_worked = anyio.Event()

    async def retire(_clock_lead_s: float) -> None:
        if failures:
            raise failures.pop(0)
        deleted.append("transcripts")

    async def retire_watches(_clock_lead_s: float) -> None:
        deleted.append("watches")
        if "transcripts" in deleted:
            has_worked.set()

    async def clear_models() -> None:
        deleted.append("models")

    async def clear_natives() -> None:
        deleted.append("natives")

    service: Any = SimpleNamespace(
        database=SimpleNamespace(path=tmp_path / "whisperd.sqlite3"),
        jobs=SimpleNamespace(retire=lambda _clock_lead_s: None),
        job_keeper=SimpleNamespace(retire=retire),
        watches=SimpleNamespace(retire=retire_watches),
        models=SimpleNamespace(clear_leftovers=clear_models),
        natives=SimpleNamespace(clear_leftovers=clear_natives),
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(resuming.retire_jobs, service)
        with anyio.fail_after(60):
            await has_worked.wait()
        tasks.cancel_scope.cancel()
    leftovers = ["models", "natives"]
    assert deleted[:10] == [*leftovers, "watches"] * 2 + [*leftovers, "transcripts", "watches"]
    assert "There is no room." in caplog.text
    assert "a mistake" in caplog.text


def test_of_the_time_since_the_last_clean_up_at_most_a_week_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock may be years ahead or behind for a while, at every start of the computer."""
    day_s = 86_400
    began_s = 20_000 * day_s
    leads = {}
    for at_day in (0, 1, 1000, 2, -9999, 3, 1001, 1002, 4, 40):
        monkeypatch.setattr(time, "time", lambda now_s=began_s + at_day * day_s: now_s)
        leads[at_day] = resuming._clock_lead_s(tmp_path / "last") / day_s
    assert leads == {0: 0, 1: 0, 1000: 992, 2: 0, -9999: 0, 3: 1, 1001: 992, 1002: 986, 4: 0, 40: 24}


def test_a_clock_that_is_ahead_for_hours_at_every_start_is_not_believed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads = []
    for day in range(100):
        for at_day in (day, day + 1000, day + 1000, day):
            monkeypatch.setattr(time, "time", lambda now_s=at_day * 86_400: now_s)
            leads.append(resuming._clock_lead_s(tmp_path / "last") / 86_400)
    assert min(leads[1::4]) > 900


async def test_an_upload_is_deleted_once_the_end_of_its_job_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []

    async def remove_upload(upload: str) -> None:
        removed.append(upload)

    def ticket(error: WhisperdError | None = None) -> Ticket:
        made = Ticket(lambda _: None)
        made.settle(error)
        return made

    async def save_again(_: float) -> None:
        assert removed == []
        job.end = ticket()

    monkeypatch.setattr("whisperd.daemon.service.anyio.sleep", save_again)
    job = Job(id="1", path="a", input=JobInput(upload="a"), options=JobOptions(), runtime="base")
    job.is_detached, job.end = True, ticket(WhisperdError("disk.full", "There is no room.", ""))
    job.over.set()
    async with anyio.create_task_group() as tasks:
        service: Any = SimpleNamespace(_tasks=tasks, remove_upload=remove_upload)
        Service.remove_upload_after(service, job, "a")
    assert removed == ["a"]
