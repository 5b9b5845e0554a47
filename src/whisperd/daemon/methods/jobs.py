"""`jobs.*`: transcriptions, running and past."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
import msgspec
from anyio.lowlevel import checkpoint

from whisperd.clock import rfc3339_ago, to_rfc3339
from whisperd.daemon.leasing import lease_for_job, lease_for_options
from whisperd.daemon.methods.uploads import check_owned
from whisperd.daemon.service import Call
from whisperd.jobs.audio_buffer import MAX_PUSH_BYTES, AudioBuffer, AudioBufferClosed
from whisperd.jobs.identity import check_path
from whisperd.jobs.job import Job, JobInput, JobStatus, JobView, Source
from whisperd.jobs.manager import JobManager
from whisperd.jobs.segments import Transcript
from whisperd.outputs import render, verbose
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.rpc.messages import Name, Params, invalid_params


class InputParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of: a path, a path that is not UTF-8, an upload's id, audio that is pushed as it is spoken."""

    path: str | None = None
    path_bytes: bytes | None = None
    upload: str | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        if [self.path, self.path_bytes, self.upload, self.stream or None].count(None) != 3:
            raise ValueError("input is one of path, path_bytes, upload and stream")

    @property
    def given_path(self) -> str:
        """The path in either form; an upload has none."""
        return self.path or "" if self.path_bytes is None else os.fsdecode(self.path_bytes)


class SubmitParams(Params, frozen=True):
    """What to transcribe and how."""

    input: InputParams
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Those of `JobOptions`. What is not among them is as in the profile, else at its default."""
    detach: bool = False
    """Whether the job goes on when this connection ends."""
    profile: str | None = None
    """A profile for this job alone, in place of the connection's."""


class JobParams(Params, frozen=True):
    """Which job."""

    id: str


class PushParams(Params, frozen=True):
    """Which live job, and what was spoken since the last time: 16-bit samples at 16 kHz, one channel."""

    id: str
    pcm: Annotated[bytes, msgspec.Meta(max_length=MAX_PUSH_BYTES)]


class ResultParams(Params, frozen=True):
    """Which job, in which format."""

    id: str
    format: str = "text"


class ListParams(Params, frozen=True):
    """Which jobs: all, or those that are so."""

    status: JobStatus | None = None
    since: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    """Submitted at this moment (RFC 3339) or later."""
    runtime: Name | None = None
    """On the runtime of this name or id."""


class CancelParams(Params, frozen=True):
    """One job, several by their ids, or all that are not over and so."""

    id: str | None = None
    ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] | None = None
    all: bool = False
    status: Literal["queued", "running"] | None = None
    """This and those below as in `ListParams`; only with `all`."""
    since: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    runtime: Name | None = None

    def __post_init__(self) -> None:
        if [self.id, self.ids, self.all or None].count(None) != 2:
            raise ValueError("it takes one of id, ids and all")
        if not self.all and not (self.status is self.since is self.runtime is None):
            raise ValueError("status, since and runtime choose among all jobs, and need all")


class ClearParams(Params, frozen=True):
    """Which of the jobs that are over: by default all."""

    ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] | None = None
    older_than: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Those that were over so many seconds ago."""
    purge: bool = False
    """Whether their texts are erased as well; without ids, all texts that are so old."""


async def submit(call: Call, params: SubmitParams) -> dict[str, Any]:
    """Take a job and answer with its id as soon as it is in the journal."""
    source = await _source(call, params)
    profile = params.profile if params.profile is not None else call.connection.profile
    options, lease, languages = await lease_for_options(call.service, params.options, profile)
    with lease.released_on_error():
        if source.shown.upload is not None:
            _uploaded(call, source.shown.upload)  # another job may have taken it meanwhile
        job = call.service.jobs.submit(source, options, lease, languages, is_detached=params.detach)
    if job.input.upload is not None:
        call.connection.uploads.discard(job.input.upload)
        call.service.remove_upload_after(job, job.input.upload)
    if not params.detach:
        call.connection.attached_jobs.add(job)
    await call.service.jobs.acknowledged(job)
    return {"id": job.id}


async def push(call: Call, params: PushParams) -> dict[str, Any]:
    """Take audio of a live job; answers once there is room for it. `held` are seconds not listened to yet."""
    job, audio_buffer = _live(call, params.id)
    try:
        await audio_buffer.push(params.pcm)
    except AudioBufferClosed:
        if job.error is not None:
            raise job.error.copy() from None
        raise WhisperdError(
            "live.finished",
            f"The live job {job.id} was finished and takes no more audio.",
            "Submit another one for what is spoken now.",
        ) from None
    return {"held": round(audio_buffer.held_s, 3)}


async def finish(call: Call, params: JobParams) -> dict[str, Any]:
    """Nothing more is spoken: the job ends with what was pushed."""
    _, audio_buffer = _live(call, params.id)
    await audio_buffer.finish()
    return {}


async def list_(call: Call, params: ListParams) -> list[JobView]:
    """The jobs that are remembered, the oldest first, without their texts."""
    chosen = _chosen(call, call.service.jobs.remembered(), params)
    return [job.view(with_text=False) for job in chosen]


async def show(call: Call, params: JobParams) -> JobView:
    """One job."""
    job = call.service.jobs.get(params.id)
    return job.view(transcript=await call.service.jobs.transcript(job))


async def wait(call: Call, params: JobParams) -> dict[str, Any]:
    """Wait for a job's end and answer with its result; its error is raised."""
    job = call.service.jobs.get(params.id)
    await job.over.wait()
    # The words of a day take as long as its subtitles.
    shape = await anyio.to_thread.run_sync(verbose, await _transcript(call, job))
    return {**shape, "warnings": job.warnings} if job.warnings else shape


async def result(call: Call, params: ResultParams) -> dict[str, Any]:
    """A completed job's text in a format."""
    transcript = await _transcript(call, call.service.jobs.get(params.id))
    # The subtitles of a day take seconds to lay out.
    content = await anyio.to_thread.run_sync(render, transcript, params.format)
    return {"format": params.format, "content": content}


async def cancel(call: Call, params: CancelParams) -> JobView | list[JobView | dict[str, Any]]:
    """Cancel jobs and wait until they are over. Harmless for one that is over already.

    One is answered with its view; several with one for each, or `{id, error}` where there is no such job.
    """
    jobs = call.service.jobs
    if params.id is not None:
        await _cancel(call, [jobs.get(params.id)])
        return await show(call, JobParams(id=params.id))
    if params.ids is None:
        found = _chosen(call, jobs.active(), params)
        await _cancel(call, found)
        return [job.view(with_text=False) for job in found]
    named = {job_id: _job_or_error(jobs, job_id) for job_id in params.ids}
    await _cancel(call, [job for job in named.values() if isinstance(job, Job)])
    return [
        one.view(with_text=False) if isinstance(one, Job) else {"id": job_id, "error": one.to_wire()}
        for job_id, one in named.items()
    ]


async def _cancel(call: Call, jobs: Sequence[Job]) -> None:
    """Cancel jobs, and wait until they are over and stay so. Raises why that cannot be saved."""
    # The last first: what waits is gone before a place becomes free, so that nothing of it begins.
    for job in sorted(jobs, key=lambda job: job.created, reverse=True):
        call.service.jobs.cancel(job)
        await checkpoint()  # there may be thousands
    for job in jobs:
        await job.over.wait()
        await call.service.jobs.end_saved(job)


def _job_or_error(jobs: JobManager, job_id: str) -> Job | WhisperdError:
    try:
        return jobs.get(job_id)
    except WhisperdError as error:
        return error


async def retry(call: Call, params: JobParams) -> JobView:
    """Do a job again that has failed or was cancelled, from where it was. It outlives its client."""
    service = call.service
    job = service.jobs.to_retry(params.id)
    if job.input.is_from_client:
        raise WhisperdError(
            "job.input_gone",
            f"The input of the job {job.id} was sent by its client, and is gone.",
            "Transcribe it again.",
        )
    stamp = await check_path(job.path)
    lease = await lease_for_job(service, job)
    with lease.released_on_error():
        again = service.jobs.retry(job.id, lease, stamp)
    await service.jobs.acknowledged(again)
    return again.view()


async def clear(call: Call, params: ClearParams) -> dict[str, Any]:
    """Forget jobs that are over, and with `purge` erase their texts."""
    service = call.service
    ids = _to_clear(service.jobs, params)
    purged = None
    with anyio.CancelScope(shield=True):  # who goes meanwhile leaves nothing half erased
        if params.purge:
            purged = await service.job_keeper.purge(ids, params.older_than, all_of_them=params.ids is None)
        cleared, ticket = service.jobs.forget(ids)
        try:
            await ticket.saved()
        except WhisperdError:
            service.jobs.restore(cleared)  # else they would come back with the next daemon
            raise
        if params.purge:
            await service.job_keeper.erase()
    return {"cleared": len(cleared), "purged": purged}


def _to_clear(jobs: JobManager, params: ClearParams) -> list[str]:
    """The ids of the jobs to forget. Raises `job.unknown` and `job.not_over`."""
    before = None if params.older_than is None else rfc3339_ago(params.older_than)
    if params.ids is None:
        return jobs.ended_before(before)
    chosen = [jobs.get(job_id) for job_id in dict.fromkeys(params.ids)]
    for job in chosen:
        if not job.over.is_set():
            raise WhisperdError(
                "job.not_over",
                f"The job {job.id} is {job.status}.",
                f"Cancel it first: `whisperctl jobs cancel {job.id}`.",
            )
    return [job.id for job in chosen if before is None or (job.ended or "") < before]


def _chosen(call: Call, jobs: Sequence[Job], params: ListParams | CancelParams) -> list[Job]:
    """Those of the jobs that are so. Raises `rpc.invalid_params` and `runtime.unknown`."""
    since = None if params.since is None else _moment(params.since)
    if params.runtime is not None and not any(_is_on(job, params.runtime) for job in jobs):
        call.service.runtimes.find(params.runtime)  # one that was deleted is known by its jobs
    return [
        job
        for job in jobs
        if (params.status is None or job.status == params.status)
        and (since is None or job.created >= since)
        and (params.runtime is None or _is_on(job, params.runtime))
    ]


def _is_on(job: Job, runtime: str) -> bool:
    return runtime in (job.runtime, job.runtime_id)


def _moment(text: str) -> str:
    """A moment as jobs have it, in UTC."""
    try:
        return to_rfc3339(datetime.datetime.fromisoformat(text))
    except ValueError:
        raise invalid_params(f"{text!r} is no moment as RFC 3339 writes it") from None


async def _source(call: Call, params: SubmitParams) -> Source:
    """Where the audio of a job comes from. Raises what is wrong with it."""
    given = params.input
    if given.stream:
        if params.detach:
            raise invalid_params("a stream belongs to its connection, and cannot be detached")
        return Source(JobInput(stream=True), audio_buffer=AudioBuffer())
    if given.upload is not None:
        path, shown = _uploaded(call, given.upload), JobInput(upload=given.upload)
        if params.detach:
            await anyio.to_thread.run_sync(call.service.uploads.sync, given.upload)
    else:
        path = given.given_path
        shown = JobInput(path=sendable(path))
    return Source(shown, path, await check_path(path))


def _uploaded(call: Call, upload: str) -> str:
    """The file of an upload of this connection. Raises `upload.unknown` and `audio.empty`."""
    check_owned(call, upload)
    path = call.service.uploads.path(upload)
    if call.service.uploads.size_bytes(upload) == 0:
        raise WhisperdError("audio.empty", "The upload is empty.", "Check that the recording was saved.")
    return str(path)


def _live(call: Call, job_id: str) -> tuple[Job, AudioBuffer]:
    """A live job of this connection. Raises `job.unknown`, `live.not_live` and `live.not_yours`."""
    job = call.service.jobs.get(job_id)
    if job.audio_buffer is None:
        raise WhisperdError(
            "live.not_live",
            f"The job {job.id} is not a live one.",
            "Push only to a job that was submitted with `input: {stream: true}`.",
        )
    if job not in call.connection.attached_jobs:
        raise WhisperdError(
            "live.not_yours",
            f"The live job {job.id} belongs to another connection.",
            "Push on the connection that has submitted it.",
        )
    return job, job.audio_buffer


async def _transcript(call: Call, job: Job) -> Transcript:
    if job.error is not None:
        raise job.error.copy()  # it is kept, and would keep every connection that it was raised for
    if not job.over.is_set():
        raise WhisperdError(
            "job.not_over",
            f"The job {job.id} is {job.status}.",
            f"Wait for it: `whisperctl jobs wait {job.id}`.",
        )
    transcript = await call.service.jobs.transcript(job)
    if transcript is None:
        raise WhisperdError(
            "job.text_gone",
            f"The text of the job {job.id} is not kept any more.",
            "Transcribe it again; `jobs.keep_transcripts` in the settings says whether texts are kept.",
        )
    return transcript
