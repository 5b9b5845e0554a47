"""A failed job keeps its error, but not the connection of a client that requested it."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisperd.daemon.methods import METHODS
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.options import JobOptions
from whisperd.rpc.errors import WhisperdError

pytestmark = pytest.mark.anyio


class _Call:
    """A client's request to a service with a single job."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def service(self) -> _Call:
        return self

    jobs = service

    def get(self, _id: str) -> Job:
        return self._job


async def test_the_error_of_a_failed_job_does_not_hold_its_caller(tmp_path: Path) -> None:
    path = str(tmp_path / "a.wav")
    job = Job(id="1", path=path, input=JobInput(path=path), options=JobOptions(), runtime="base")
    job.error = WhisperdError("audio.empty", "It is empty.", "Record something.")
    job.over.set()
    for method in ("jobs.wait", "jobs.result"):
        with pytest.raises(WhisperdError, match="It is empty"):
            params = type("Params", (), {"id": "1", "format": "text"})()
            await METHODS[method](_Call(job), params)  # type: ignore[operator]
    assert job.error.__traceback__ is None
