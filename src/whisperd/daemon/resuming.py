"""Resumes the unfinished jobs of the previous daemon, and deletes what has been stored for too long."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from whisperd.daemon.leasing import lease_for_job
from whisperd.jobs.job import Job
from whisperd.jobs.journal import JobRecord, job_of
from whisperd.jobs.lifecycle import retry_hint
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = ["RETIRE_INTERVAL_S", "is_resumed", "last_uses", "resume_jobs", "retire_jobs"]

log = logging.getLogger(__name__)

RETIRE_INTERVAL_S: Final = 3600.0
"""How often to delete what has been stored for too long."""
LONGEST_STEP_S: Final = 7 * 86_400.0
"""The most time that counts as passed since the last clean-up, forwards or backwards. A clock that is years
ahead until the network corrects it thus deletes nothing that would not have been deleted within a week, and
one that is years behind, as with a dead battery, keeps nothing for long."""
LAST_CLEANUP: Final = "last-cleanup"
"""The file whose modification time is that of the last clean-up, as far as time counts as passed."""


async def resume_jobs(service: Service, records: Sequence[JobRecord]) -> None:
    """Restore the jobs of the previous daemon; resume unfinished ones if detached, else cancel them."""
    service.jobs.restore(
        sorted((job_of(one) for one in records if one.ended is not None), key=lambda job: job.ended or "")
    )
    for record in records:
        if record.ended is not None:
            continue
        job = job_of(record)
        if job.input.upload is not None:
            service.remove_upload_after(job, job.input.upload)
        if not record.is_detached:
            service.jobs.cancel_unfinished(job, _daemon_ended(job))
            continue
        try:
            if job.input.upload is not None:
                job.path = str(service.uploads.path(job.input.upload))
            lease = await lease_for_job(service, job)
        except WhisperdError as error:
            service.jobs.fail(job, error.copy())
            continue
        service.jobs.resume(job, lease)


async def retire_jobs(service: Service) -> None:
    """Periodically delete what has been stored for longer than the settings say, until cancelled."""
    while True:
        lead_s = await to_thread.run_sync(_clock_lead_s, service.database.path.with_name(LAST_CLEANUP))
        service.jobs.retire(lead_s)
        # Leftovers first: with a full disk, the database can delete nothing until there is some space.
        await _try(service.models.clear_leftovers())
        await _try(service.natives.clear_leftovers())
        await _try(service.job_keeper.retire(lead_s))
        await _try(service.watches.retire(lead_s))
        await anyio.sleep(RETIRE_INTERVAL_S)


async def _try(deletion: Awaitable[object]) -> None:
    """Await a deletion; its failure is logged, and keeps nothing else from being deleted."""
    try:
        await deletion
    except WhisperdError as error:
        log.warning("what is old cannot be deleted: %s (%s)", error.message, error.code)
    except Exception:  # not a reason to end the daemon
        log.exception("what is old cannot be deleted")


def _clock_lead_s(last: Path) -> float:
    """Return how far the clock may be ahead, and note this clean-up. Blocks."""
    now_s = time.time()
    try:
        last_s = last.stat().st_mtime
    except OSError:  # there was none yet
        last_s = now_s
    counted_s = max(last_s - LONGEST_STEP_S, min(now_s, last_s + LONGEST_STEP_S))
    with suppress(OSError):  # such as on a full disk
        last.touch(mode=0o600)
        os.utime(last, (counted_s, counted_s))
    return max(0.0, now_s - counted_s)


def last_uses(records: Sequence[JobRecord]) -> dict[str, str]:
    """Return when each runtime was last used, according to the remembered jobs."""
    uses: dict[str, str] = {}
    for one in records:
        time = one.ended or one.started
        if time is not None and one.runtime_id is not None and not one.is_cached:
            uses[one.runtime_id] = max(time, uses.get(one.runtime_id, ""))
    return uses


def is_resumed(record: JobRecord) -> bool:
    """Whether the next daemon resumes a job."""
    return record.is_detached and record.ended is None


def _daemon_ended(job: Job) -> WhisperdError:
    return WhisperdError(
        "daemon.ended",
        "The daemon ended before the job was done.",
        f"{retry_hint(job)}; submit it with --detach if it should outlive the daemon.",
    )
