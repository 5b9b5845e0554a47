"""Watches in the test's own process: the real manager, ledger and disk, with jobs that end at once."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import anyio

from whisperd.jobs.job import Job, JobInput
from whisperd.jobs.options import JobOptions
from whisperd.jobs.segments import Transcript
from whisperd.rpc.errors import WhisperdError
from whisperd.settings import WatchSettings
from whisperd.store import open_database
from whisperd.tasks import open_task_group
from whisperd.watch import Editor, WatchJobs, WatchManager, WatchStore
from whisperd.watch.folder import WatchFolder
from whisperd_testing import LIMIT_S

__all__ = ["InstantJobs", "Watches", "open_watches", "put", "until_done", "until_noted_as_old"]


class InstantJobs:
    """Replaces `WatchJobs`: a job ends as soon as it is submitted, unless its profile is held."""

    def __init__(self, store: WatchStore) -> None:
        self._store = store
        self.taken: list[Job] = []
        self.held: set[str] = set()
        """Profiles whose jobs do not end."""
        self.error: WhisperdError | None = None
        """The error with which all jobs end."""

    @property
    def paths(self) -> list[str]:
        """The paths of the submitted files."""
        return [job.path for job in self.taken]

    async def submit(self, preset: Any, path: str, *given: Any) -> Job:
        note: Callable[[sqlite3.Connection, str], object] = given[-1]
        job = Job(
            id=f"{len(self.taken)}", path=path, input=JobInput(), options=JobOptions(), runtime="instant"
        )
        self.taken.append(job)
        await self._store.run(lambda connection: note(connection, job.id))
        job.error = self.error
        if preset.profile not in self.held:
            job.over.set()
        return job

    def find(self, _job: str) -> None:
        return None

    def cancel(self, job: str) -> None:
        for found in self.taken:
            if found.id == job and not found.over.is_set():
                found.error = WhisperdError("job.cancelled", "The job was cancelled.", "Submit it again.")
                found.over.set()

    async def transcript(self, _job: Job) -> Transcript:
        return Transcript(
            task="transcribe",
            language="en",
            duration=1.0,
            text="Said.",
            segments=(),
            runtime="instant",
            elapsed=0.1,
            has_words=False,
        )


class Watches(NamedTuple):
    """A manager of watches, with its store and jobs."""

    manager: WatchManager
    store: WatchStore
    jobs: InstantJobs

    def folders(self) -> list[WatchFolder]:
        """Return all watched folders."""
        return list(self.manager._folders.values())

    def folder(self, watch: str) -> WatchFolder:
        """Return the folder of a watch."""
        return self.manager._folders[watch]


@asynccontextmanager
async def open_watches(folder: Path, retry_delay_s: float = 0.05) -> AsyncIterator[Watches]:
    """Open a manager of watches with its database in `folder`."""
    settings = WatchSettings(settle_s=0.1, retry_delay_s=retry_delay_s)

    def same(name: str) -> str:
        return name

    async def is_known(_model: str) -> None:
        pass

    async with open_database(folder / "store.sqlite3") as database, open_task_group() as tasks:
        store = WatchStore(database)
        jobs = InstantJobs(store)
        editor = Editor(lambda options: None, same, same, lambda name: None, is_known)
        manager = WatchManager(
            tasks,
            store,
            cast(WatchJobs, jobs),
            lambda: settings,
            editor,
            lambda outcome, settled_for_s: None,
        )
        await manager.open()
        yield Watches(manager, store, jobs)
        tasks.cancel_scope.cancel()


def put(inbox: Path, *names: str) -> None:
    """Write a file with unique content for each name."""
    for name in names:
        (inbox / name).write_bytes(f"sound of {name}".encode())


async def until_noted_as_old(watches: Watches, watch: str, path: str) -> None:
    """Wait until the ledger has recorded that the modification time of a file was set back."""
    with anyio.fail_after(LIMIT_S):
        while (row := await watches.store.files.at(watch, path)) and row.identity.modified_ns > 1e9:
            await anyio.sleep(0.01)


async def is_done(watches: Watches, watch: str, count: int) -> bool:
    view = await watches.manager.view(watch)
    return bool(
        view["done"] == count and view["pending"] == 0 and not watches.folder(watch).pending.in_progress
    )


async def until_done(watches: Watches, watch: str, count: int = 1) -> None:
    """Wait until this many files are done and no work is left."""
    with anyio.fail_after(LIMIT_S):
        while not await is_done(watches, watch, count):
            await anyio.sleep(0.01)
