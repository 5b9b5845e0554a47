"""The life cycle of jobs among fakes: a job ends exactly once, as its last event, and leaks nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from job_fakes import FakeDecoders, FakeKeeper, FakeRuntime, FakeRuntimes, an_error
from whisperd.audio import DecoderPool
from whisperd.clock import rfc3339_ago
from whisperd.jobs.identity import FileStamp, check_path, read_stamp
from whisperd.jobs.job import Job, JobInput, Source
from whisperd.jobs.journal import JobJournal
from whisperd.jobs.keeper import JobKeeper
from whisperd.jobs.manager import JobManager
from whisperd.jobs.options import JobOptions
from whisperd.jobs.recipe import Recipe
from whisperd.jobs.transcripts import TranscriptStore
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.events import Event
from whisperd.runtimes import Lease
from whisperd.settings import DecoderSettings, JobSettings, LimitSettings, Settings
from whisperd.store import Ticket, open_database, open_saver
from whisperd.tasks import open_task_group
from whisperd_testing import LIMIT_S

pytestmark = pytest.mark.anyio

ENDS = ("transcription.completed", "transcription.failed", "transcription.cancelled")


class House:
    """A manager with fake runtimes and decoders."""

    manager: JobManager

    def __init__(self, *, keep_count: int = 1000, **limits: Any) -> None:
        self.settings = Settings(
            limits=LimitSettings(**limits),
            jobs=JobSettings(keep_count=keep_count),
            decoder=DecoderSettings(processes=1),
        )
        self.runtime = FakeRuntime()
        self.runtimes = FakeRuntimes(self.runtime)
        self.decoders = FakeDecoders([5.0, 6.0])
        self.languages: tuple[str, ...] | None = None
        """The languages of the model, if known before it is loaded."""
        self.events: list[Event] = []
        self.forgotten: list[str] = []
        self.path = "/a.wav"
        self.stamp: FileStamp | None = None

    def submit(self, *, is_detached: bool = False, **options: Any) -> Job:
        job_options = JobOptions(**{"language": "en", **options})
        lease = self.runtimes.lease()
        try:
            shown = JobInput(path=self.path)
            return self.manager.submit(
                Source(shown, self.path, self.stamp),
                job_options,
                cast(Lease, lease),
                self.languages,
                is_detached=is_detached,
            )
        except WhisperdError:
            lease.release()  # only a job that exists takes over its lease
            raise

    def told(self, job: Job) -> list[str]:
        """Return the types of the events of a job, in order."""
        return [str(event.__struct_config__.tag) for event in self.events if cast(Any, event).id == job.id]

    async def end(self, job: Job) -> str:
        with anyio.fail_after(LIMIT_S):
            await job.over.wait()
        return job.status

    def block(self, stage: str) -> None:
        """Hold jobs at this stage."""
        event = anyio.Event()
        match stage:
            case "loading":
                self.runtimes.may_load = event
            case "decoding":
                self.decoders.may_continue = event
            case "computing":
                self.runtime.may_compute = event

    def unblock(self) -> None:
        for event in (self.runtimes.may_load, self.decoders.may_continue, self.runtime.may_compute):
            event.set()


@asynccontextmanager
async def open_house(*, keeper: JobKeeper | None = None, **limits: Any) -> AsyncIterator[House]:
    house = House(**limits)
    async with open_task_group() as tasks:
        house.manager = JobManager(
            tasks,
            decoders=cast(DecoderPool, house.decoders),
            settings=lambda: house.settings,
            publish=house.events.append,
            forget=house.forgotten.append,
            keeper=keeper or cast(JobKeeper, FakeKeeper()),
        )
        yield house
        tasks.cancel_scope.cancel()
    assert (house.runtimes.leases, house.runtimes.users) == (0, 0), "a lease is left behind"
    assert house.decoders.open == 0, "a decoder is left behind"
    for job in house.manager.remembered():
        told = house.told(job)
        assert [one in ENDS for one in told] == [False] * (len(told) - 1) + [True], told
        assert job.over.is_set() and job.ended is not None


async def test_the_life_of_a_job() -> None:
    async with open_house() as house:
        job = house.submit()
        assert (job.status, job.started, job.ended) == ("queued", None, None)
        assert await house.end(job) == "completed"
        assert job.transcript is not None and job.transcript.text == "5 6"
        assert job.view().progress == 100.0
        assert job.view().text == "5 6" and job.view(with_text=False).text is None
        assert house.told(job) == [
            "job.queued",
            "job.started",
            "transcription.segment",
            "transcription.progress",
            "transcription.segment",
            "transcription.progress",
            "transcription.completed",
        ]


async def test_the_first_text_arrives_before_the_rest_is_decoded() -> None:
    async with open_house() as house:
        house.decoders.lengths = [10.0] * 1000  # three hours
        house.decoders.pause_before, house.decoders.may_continue = 1, anyio.Event()
        job = house.submit(language="de")
        await anyio.wait_all_tasks_blocked()
        assert house.told(job) == [
            "job.queued",
            "job.started",
            "transcription.segment",
            "transcription.progress",
        ]
        assert job.progress is not None and 0 < job.progress < 1
        house.decoders.may_continue.set()
        assert await house.end(job) == "completed"


# Cancelling


@pytest.mark.parametrize("stage", ["submitted", "queued", "loading", "decoding", "computing"])
async def test_a_job_can_be_cancelled_at_every_stage(stage: str) -> None:
    async with open_house() as house:
        before = None
        if stage == "queued":
            house.block("decoding")
            before = house.submit()
            await anyio.wait_all_tasks_blocked()
        house.block(stage)
        job = house.submit()
        if stage != "submitted":
            await anyio.wait_all_tasks_blocked()
        assert job.status == ("running" if stage in ("decoding", "computing") else "queued")
        house.manager.cancel(job)
        house.manager.cancel(job, an_error("another.reason"))
        assert await house.end(job) == "cancelled"
        assert job.error is not None and job.error.code == "job.cancelled"
        assert job.transcript is None
        house.manager.cancel(job)
        house.unblock()
        assert await house.end(house.submit()) == "completed", "its slot is not free again"
        if before is not None:
            assert await house.end(before) == "completed"


async def test_an_error_caused_by_cancelling_does_not_fail_the_job() -> None:
    async with open_house() as house:
        house.block("decoding")
        house.decoders.error_when_cancelled = an_error("decoder.stopped")
        job = house.submit()
        await anyio.wait_all_tasks_blocked()
        house.manager.cancel(job)
        assert await house.end(job) == "cancelled"


async def test_windows_in_flight_of_a_cancelled_job_do_not_affect_other_jobs() -> None:
    async with open_house() as house:
        house.block("computing")
        job = house.submit()
        await anyio.wait_all_tasks_blocked()
        house.manager.cancel(job)
        await house.end(job)
        other = house.submit()
        house.unblock()
        assert await house.end(other) == "completed"


# Failing


async def test_a_job_waiting_for_its_model_occupies_no_slot() -> None:
    """A model may download for an hour: jobs on loaded models must not wait for it."""
    async with open_house() as house:
        house.block("loading")
        waiting = [house.submit(), house.submit()]
        await anyio.wait_all_tasks_blocked()
        assert [job.view().detail for job in waiting] == ["loading", "loading"]
        loading, house.runtimes.may_load = house.runtimes.may_load, anyio.Event()
        house.runtimes.may_load.set()
        assert await house.end(house.submit()) == "completed"
        assert [job.status for job in waiting] == ["queued", "queued"]
        loading.set()
        for job in waiting:
            assert await house.end(job) == "completed"


async def test_a_queued_job_acquires_its_runtime_again_if_it_was_unloaded() -> None:
    async with open_house() as house:
        house.block("decoding")
        running, waiting = house.submit(), house.submit()
        await anyio.wait_all_tasks_blocked()
        house.runtime.unload(an_error("worker.died"))
        house.runtimes.the_runtime = FakeRuntime()
        house.unblock()
        await house.end(running)
        assert await house.end(waiting) == "completed"


@pytest.mark.parametrize(
    ("options", "code"),
    [({"language": "de"}, "language.not_in_model"), ({"task": "translate"}, "task.not_in_model")],
)
async def test_a_language_or_task_that_the_model_lacks_is_refused_at_once(
    options: dict[str, str], code: str
) -> None:
    async with open_house() as house:
        house.languages = ("en",)
        with pytest.raises(WhisperdError) as raised:
            house.submit(**options)
        assert raised.value.code == code
        assert house.manager.remembered() == []


async def test_a_language_that_the_model_lacks_fails_the_job_once_it_is_loaded() -> None:
    async with open_house() as house:
        house.runtimes.the_runtime = FakeRuntime(multilingual=False)
        job = house.submit(language="de")
        assert await house.end(job) == "failed"
        assert job.error is not None and job.error.code == "language.not_in_model"


async def test_a_job_uses_its_runtime_only_while_it_runs() -> None:
    """An edited runtime is reloaded as soon as no job uses it, even if jobs are queued for it."""
    async with open_house() as house:
        house.block("decoding")
        first, second = house.submit(), house.submit()
        await anyio.wait_all_tasks_blocked()
        assert (house.runtimes.leases, house.runtimes.users) == (2, 1)
        house.unblock()
        assert await house.end(first) == await house.end(second) == "completed"


async def test_a_job_fails_if_its_runtime_cannot_be_loaded() -> None:
    async with open_house() as house:
        house.runtimes.error = an_error("model.unknown")
        job = house.submit()
        assert await house.end(job) == "failed"
        assert job.error is not None and job.error.code == "model.unknown"
        assert house.told(job) == ["job.queued", "transcription.failed"]


async def test_the_error_of_a_job_keeps_no_objects_alive() -> None:
    """A traceback would keep the frames of the run alive, and the audio in them."""
    async with open_house() as house:
        house.decoders.error = an_error("audio.damaged")
        job = house.submit()
        assert await house.end(job) == "failed"
        assert job.error is not None
        assert job.error.__traceback__ is None
        assert job.error.__context__ is None


async def test_a_bug_fails_only_the_job_it_hits(caplog: pytest.LogCaptureFixture) -> None:
    async with open_house() as house:
        house.decoders.error = ZeroDivisionError("a mistake")
        job = house.submit()
        assert await house.end(job) == "failed"
        assert job.error is not None and job.error.code == "internal.error"
        assert "ZeroDivisionError" in caplog.text
        house.decoders.error = None
        assert await house.end(house.submit()) == "completed"


async def test_jobs_on_an_unloaded_runtime_fail_with_its_error() -> None:
    async with open_house() as house:
        house.block("computing")
        house.block("decoding")
        waiting = house.submit()
        decoding = house.submit(priority="interactive")
        await anyio.wait_all_tasks_blocked()
        house.runtime.unload(an_error("worker.died"))
        for job in (waiting, decoding):
            assert await house.end(job) == "failed"
            assert job.error is not None and job.error.code == "worker.died"


async def test_a_job_fails_if_its_runtime_is_unloaded_between_its_windows() -> None:
    async with open_house() as house:
        house.decoders.pause_before = 1
        house.block("decoding")
        job = house.submit()
        await anyio.wait_all_tasks_blocked()
        assert job.done_s == 5.0, "its first window was computed, the next one is not decoded yet"
        house.runtime.unload(an_error("worker.died"))
        await anyio.wait_all_tasks_blocked()
        house.unblock()
        assert await house.end(job) == "failed"
        assert job.error is not None and job.error.code == "worker.died"


# Queueing


async def test_jobs_of_one_priority_run_one_after_another() -> None:
    async with open_house() as house:
        house.block("decoding")
        first, second = house.submit(), house.submit()
        await anyio.wait_all_tasks_blocked()
        assert (first.status, second.status) == ("running", "queued")
        house.unblock()
        assert await house.end(second) == "completed"
        assert house.manager.remembered() == [first, second]


async def test_a_decoded_file_frees_its_slot_for_the_next_one() -> None:
    async with open_house() as house:
        house.block("computing")
        jobs = [house.submit() for _ in range(3)]
        await anyio.wait_all_tasks_blocked()
        assert [job.status for job in jobs] == ["running"] * 3
        house.unblock()
        for job in jobs:
            assert await house.end(job) == "completed"
        assert [len(lengths) for _, lengths in house.runtime.batches] == [1, 4, 1], (
            "their windows do not share a batch"
        )


async def test_no_further_file_is_decoded_while_enough_windows_wait() -> None:
    async with open_house() as house:
        house.decoders.lengths = [25.0, 25.0]
        house.block("computing")
        jobs = [house.submit() for _ in range(4)]
        await anyio.wait_all_tasks_blocked()
        # One window of the first job is being computed; 75 s wait with the second job, 125 s with the third.
        assert [job.status for job in jobs] == ["running", "running", "running", "queued"]
        house.unblock()
        for job in jobs:
            assert await house.end(job) == "completed"


async def test_no_further_file_is_decoded_while_enough_language_votes_wait() -> None:
    async with open_house() as house:
        house.decoders.lengths = [25.0, 25.0]
        house.block("computing")
        jobs = [house.submit(language=None) for _ in range(4)]
        await anyio.wait_all_tasks_blocked()
        assert [job.status for job in jobs] == ["running", "running", "running", "queued"]
        house.unblock()
        for job in jobs:
            assert await house.end(job) == "completed"


async def test_no_file_of_a_held_priority_is_decoded() -> None:
    async with open_house() as house:
        house.block("decoding")
        jobs = [house.submit(priority="bulk") for _ in range(3)]
        await anyio.wait_all_tasks_blocked()
        house.manager.hold(frozenset({"bulk"}))
        house.unblock()
        await anyio.wait_all_tasks_blocked()
        assert [job.status for job in jobs[1:]] == ["queued", "queued"]
        house.manager.hold(frozenset())
        for job in jobs:
            assert await house.end(job) == "completed"


async def test_each_priority_has_its_own_slots() -> None:
    async with open_house() as house:
        house.block("decoding")
        bulk = [house.submit(priority="bulk") for _ in range(3)]
        await anyio.wait_all_tasks_blocked()
        normal, interactive = house.submit(), house.submit(priority="interactive")
        await anyio.wait_all_tasks_blocked()
        assert [job.status for job in bulk] == ["running", "queued", "queued"]
        assert (normal.status, interactive.status) == ("running", "running")
        house.unblock()
        for job in (*bulk, normal, interactive):
            assert await house.end(job) == "completed"


@pytest.mark.parametrize("priority", ["normal", "bulk"])
async def test_a_small_file_does_not_wait_for_large_ones(priority: str) -> None:
    """A large file frees its slot only when it is nearly finished, which may take hours."""
    async with open_house() as house:
        house.block("decoding")
        house.stamp = FileStamp(size_bytes=100_000_000, modified_ns=0)
        large = [house.submit(priority=priority) for _ in range(2)]
        await anyio.wait_all_tasks_blocked()
        house.stamp = FileStamp(size_bytes=100_000, modified_ns=0)
        small = [house.submit(priority=priority) for _ in range(2)]
        await anyio.wait_all_tasks_blocked()
        assert [job.status for job in (*large, *small)] == ["running", "queued", "running", "queued"]
        house.unblock()
        for job in (*large, *small):
            assert await house.end(job) == "completed"


async def test_a_queued_job_holds_its_lease() -> None:
    """Otherwise, a model would be unloaded and reloaded between two jobs."""
    async with open_house() as house:
        house.block("decoding")
        for _ in range(3):
            house.submit()
        await anyio.wait_all_tasks_blocked()
        assert house.runtimes.leases == 3
        house.unblock()


async def test_the_queue_is_limited() -> None:
    async with open_house(max_jobs=2) as house:
        house.block("loading")
        jobs = [house.submit(), house.submit()]
        with pytest.raises(WhisperdError) as raised:
            house.submit()
        assert raised.value.code == "job.queue_full"
        assert raised.value.data == {"retry_after_s": 30, "max_jobs": 2}
        assert "30 seconds" in raised.value.fix
        house.unblock()
        for job in jobs:
            await house.end(job)
        house.submit()


# Forgetting


async def test_only_the_newest_finished_jobs_are_remembered() -> None:
    async with open_house(keep_count=2) as house:
        jobs = []
        for _ in range(4):
            jobs.append(house.submit())
            await house.end(jobs[-1])
        assert house.forgotten == [job.id for job in jobs[:2]]
        assert house.manager.remembered() == jobs[2:]
        with pytest.raises(WhisperdError) as raised:
            house.manager.get(jobs[0].id)
        assert raised.value.code == "job.unknown"
        assert house.manager.get(jobs[3].id) is jobs[3]
        house.manager.forget(house.manager.ended_before(None))
        assert house.manager.remembered() == []


async def test_cancelled_jobs_do_not_evict_completed_ones() -> None:
    async with open_house(keep_count=2) as house:
        completed = [house.submit(), house.submit()]
        for job in completed:
            await house.end(job)
        house.block("computing")
        cancelled = [house.submit() for _ in range(5)]
        for job in cancelled:
            house.manager.cancel(job)
            await house.end(job)
        assert house.manager.remembered() == [*completed, *cancelled[-2:]]
        assert house.manager.ended_before(None) == [job.id for job in house.manager.remembered()]


async def test_an_active_job_is_never_forgotten() -> None:
    async with open_house() as house:
        house.block("decoding")
        job = house.submit()
        await anyio.wait_all_tasks_blocked()
        house.manager.forget([*house.manager.ended_before(None), job.id])
        assert house.manager.get(job.id) is job
        assert house.manager.active() == [job]


# Stopping


async def test_drain_waits_for_running_jobs() -> None:
    async with open_house() as house:
        house.block("decoding")
        jobs = [house.submit(), house.submit()]
        await anyio.wait_all_tasks_blocked()
        cancelled: list[int] = []

        async def drain() -> None:
            cancelled.append(await house.manager.drain(grace_s=3600))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(WhisperdError) as raised:
                house.submit()
            assert raised.value.code == "daemon.stopping"
            house.unblock()
        assert cancelled == [0]
        assert [job.status for job in jobs] == ["completed", "completed"]


async def test_drain_cancels_jobs_after_the_grace_period() -> None:
    async with open_house() as house:
        house.block("decoding")
        jobs = [house.submit(), house.submit()]
        await anyio.wait_all_tasks_blocked()
        assert await house.manager.drain(grace_s=0) == 2
        for job in jobs:
            assert job.status == "cancelled"
            assert job.error is not None and job.error.code == "daemon.stopping"
            assert job.error.fix == f"Retry it with `whisperctl jobs retry {job.id}`.", (
                "the fix must also hold when it is read later"
            )


async def test_drain_neither_waits_for_detached_jobs_nor_cancels_them() -> None:
    async with open_house() as house:
        house.block("decoding")
        job = house.submit(is_detached=True)
        await anyio.wait_all_tasks_blocked()
        assert await house.manager.drain(grace_s=3600) == 0
        assert job.is_suspended


async def test_cancelling_the_task_group_cancels_every_job() -> None:
    async with open_house() as house:
        house.block("computing")
        jobs = [house.submit() for _ in range(3)]
        await anyio.wait_all_tasks_blocked()
    for job in jobs:
        assert job.status == "cancelled"
        assert job.error is not None and job.error.code == "daemon.stopping"


# Saving


class SlowKeeper(FakeKeeper):
    """Completes no save until the test settles its ticket."""

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []

    def save_end(self, *_: object) -> Ticket:
        self.tickets.append(Ticket(lambda _: None))
        return self.tickets[-1]


@pytest.mark.parametrize(("limit", "value"), [("TRANSCRIPTS_IN_MEMORY", 1), ("AUDIO_IN_MEMORY_S", 15.0)])
async def test_transcripts_leave_memory_once_they_are_saved(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    monkeypatch.setattr(f"whisperd.jobs.manager.{limit}", value)
    keeper = SlowKeeper()
    async with open_house(keeper=cast(JobKeeper, keeper)) as house:
        jobs = [house.submit() for _ in range(3)]
        assert {await house.end(job) for job in jobs} == {"completed"}
        assert None not in [job.transcript for job in jobs], "unsaved transcripts were dropped"
        for ticket in keeper.tickets:
            ticket.settle()
        jobs.append(house.submit())
        await house.end(jobs[-1])
        assert [job.transcript is None for job in jobs] == [True, True, True, False]
        forgotten, _ = house.manager.forget([jobs[-1].id])
        house.manager.restore(forgotten)  # as if the deletion could not be saved
        keeper.tickets[3].settle()
        await house.end(house.submit())
        assert jobs[-1].transcript is None


@pytest.mark.parametrize("when", ["later", "at the end"])
async def test_a_failed_save_of_an_ended_job_is_retried(when: str) -> None:
    keeper = SlowKeeper()
    async with open_house(keeper=cast(JobKeeper, keeper)) as house:
        await house.end(house.submit())
        await house.end(house.submit())
        keeper.tickets[0].settle(an_error("disk.full"))
        if when == "later":
            house.manager.retire()
        else:
            await house.manager.drain(grace_s=0)
        assert len(keeper.tickets) == 3
        keeper.tickets[2].settle()
        house.manager.retire()
        assert len(keeper.tickets) == 3


async def test_jobs_are_kept_for_longer_if_the_clock_may_be_ahead() -> None:
    async with open_house() as house:
        job = house.submit()
        await house.end(job)
        job.ended = rfc3339_ago(91 * 86_400)
        house.manager.retire(clock_lead_s=2 * 86_400)
        assert house.manager.remembered() == [job]
        house.manager.retire()
        assert house.manager.remembered() == []


@pytest.mark.parametrize("is_saved", [False, True])
async def test_forgetting_a_job_replaces_a_failed_save_of_its_end(is_saved: bool) -> None:
    keeper = SlowKeeper()
    async with open_house(keeper=cast(JobKeeper, keeper)) as house:
        job = house.submit()
        await house.end(job)
        keeper.tickets[0].settle(None if is_saved else an_error("disk.full"))
        _, gone = house.manager.forget([job.id])
        assert job.end is (keeper.tickets[0] if is_saved else gone)


async def test_a_completed_job_does_not_wait_for_the_hash_of_a_large_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper = FakeKeeper()
    monkeypatch.setattr("whisperd.jobs.executor.HASH_PATIENCE_S", 0)
    monkeypatch.setattr(keeper, "hash_input", lambda _: anyio.sleep_forever())
    async with open_house(keeper=cast(JobKeeper, keeper)) as house:
        assert await house.end(house.submit()) == "completed"


# Inputs


async def test_a_forgotten_job_leaves_nothing_in_memory(tmp_path: Path) -> None:
    """Otherwise, a transcript that was to be erased would stay in memory."""

    async def recipe_of(*_: object) -> Recipe:
        return Recipe(rules="r", engine="e", decoder="d", max_window_s=30.0, options={})

    async def done(house: House) -> weakref.ref[Job]:
        job = house.submit()
        assert await house.end(job) == "completed"
        return weakref.ref(job)

    async with open_database(tmp_path / "a.sqlite3") as database, open_saver(database) as saver:
        journal = JobJournal(saver)
        keeper = JobKeeper(journal, TranscriptStore(database), JobSettings, recipe_of)
        async with open_house(keeper=keeper) as house:
            house.path = str(tmp_path / "a.wav")
            Path(house.path).write_bytes(b"RIFF")
            forgotten, other = await done(house), await done(house)
            (job, _) = house.manager.remembered()
            assert len(house.manager.forget([job.id])[0]) == 1
            del job
            await saver.flush()
            await anyio.wait_all_tasks_blocked()
            gc.collect()
            assert forgotten() is None and other() is not None


async def test_check_path_returns_the_stamp_of_a_file(tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    sound.write_bytes(b"RIFF")
    assert await check_path(str(sound)) == read_stamp(str(sound))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing.wav", "audio.not_found"),
        ("empty.wav/below", "audio.not_found"),
        (".", "audio.is_directory"),
        ("empty.wav", "audio.empty"),
        ("nul\0.wav", "audio.not_found"),
        ("x" * 300, "audio.not_readable"),
    ],
)
async def test_check_path_refuses_unusable_paths(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "empty.wav").touch()
    with pytest.raises(WhisperdError) as raised:
        await check_path(f"{tmp_path}/{name}")
    assert raised.value.code == code


async def test_the_error_for_a_nul_character_names_it() -> None:
    for path in ("/nul\0.wav", "nul\0.wav"):
        with pytest.raises(WhisperdError, match="NUL"):
            await check_path(path)


async def test_a_relative_path_is_refused() -> None:
    with pytest.raises(WhisperdError) as raised:
        await check_path("a.wav")
    assert raised.value.code == "input.not_absolute"
