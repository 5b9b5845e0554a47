"""The warnings of a job whose recording has changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, cast

import pytest

from whisperd.jobs.identity import check_path, content_hash
from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.keeper import JobKeeper
from whisperd.jobs.options import JobOptions
from whisperd.rpc.errors import WhisperdError

pytestmark = pytest.mark.anyio
NOTHING = cast(Any, None)
KEEPER = JobKeeper(NOTHING, NOTHING, NOTHING, NOTHING)


async def job_of(sound: Path) -> Job:
    """Return a job that has started."""
    sound.write_bytes(b"sound")
    job = Job(id="1", path=str(sound), input=JobInput(path=str(sound)), options=JobOptions(), runtime="toy")
    job.stamp = await check_path(job.path)
    return job


@pytest.mark.parametrize(
    ("content", "is_changed", "keeps_hash"),
    [(b"sound", False, True), (b"other", True, False), (b"longer sound", True, False), (None, False, False)],
    ids=["touched", "overwritten", "appended", "deleted"],
)
async def test_a_transcript_is_not_stored_for_a_recording_that_changed_meanwhile(
    tmp_path: Path, content: bytes | None, is_changed: bool, keeps_hash: bool
) -> None:
    """With its hash it would be found again for the recording as it was at first."""
    job = await job_of(tmp_path / "a.wav")
    hashed = await content_hash(job.path)
    assert hashed is not None
    job.content_hash = hashed[0]
    if content is None:
        Path(job.path).unlink()
    else:
        Path(job.path).write_bytes(content)
        os.utime(job.path, (1, 1))
    await KEEPER.check_unchanged(job)
    assert bool(job.warnings) is is_changed
    assert job.content_hash == (hashed[0] if keeps_hash else None)


@pytest.mark.parametrize(("is_longer", "is_hashed"), [(False, False), (False, True), (True, False)])
async def test_the_warning_admits_when_only_the_time_is_known_to_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_longer: bool, is_hashed: bool
) -> None:
    """The hash may have been computed at first, but time out later."""
    monkeypatch.setattr("whisperd.jobs.identity.HASH_TIMEOUT_S", 0)
    job = await job_of(tmp_path / "a.wav")
    job.content_hash = "hash" if is_hashed else None
    Path(job.path).write_bytes(b"sound" + b"!" * is_longer)
    os.utime(job.path, (1, 1))
    await KEEPER.check_unchanged(job)
    assert ("or only its modification time" in job.warnings[0]["message"]) is not is_longer


@pytest.mark.parametrize("is_another", [False, True])
async def test_a_longer_file_that_replaces_a_finished_recording_is_no_change(
    tmp_path: Path, is_another: bool
) -> None:
    job = await job_of(tmp_path / "a.wav")
    await KEEPER.check_unchanged(job)
    longer = tmp_path / "b.wav" if is_another else Path(job.path)
    longer.write_bytes(b"longer sound")
    longer.replace(job.path)
    await KEEPER.check_complete(job)
    assert bool(job.warnings) is not is_another


async def test_a_network_disk_that_fails_once_the_recording_was_read_does_not_fail_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fstat(_: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    job = await job_of(tmp_path / "a.wav")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", fstat)
        await KEEPER.check_unchanged(job)
        await KEEPER.check_complete(job)
        with pytest.raises(WhisperdError) as raised:
            await check_path(job.path)
    assert raised.value.code == "audio.not_readable"
    assert not job.warnings
