"""`jobs.*`: transcriptions, current and past."""

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
    """One of: a path, a path that is not UTF-8, an upload's id, live audio that is pushed as it is spoken."""

    path: str | None = None
    path_bytes: bytes | None = None
    upload: str | None = None
    stream: bool | None = None

    def __post_init__(self) -> None:
        if [self.path, self.path_bytes, self.upload, self.stream or None].count(None) != 3:
            raise ValueError("input must have exactly one of path, path_bytes, upload and stream")

    @property
    def given_path(self) -> str:
        """The path in either form; empty for an upload."""
        return self.path or "" if self.path_bytes is None else os.fsdecode(self.path_bytes)


class SubmitParams(Params, frozen=True):
    """What to transcribe and how."""

    input: InputParams
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Fields of `JobOptions`. Missing ones are taken from the profile, else their defaults apply."""
    detach: bool = False
    """Whether the job continues when this connection ends."""
    profile: str | None = None
    """A profile for this job only, in place of the connection's."""


class JobParams(Params, frozen=True):
    """Which job."""

    id: str


class PushParams(Params, frozen=True):
    """Which live job, and its next audio: 16-bit samples at 16 kHz, one channel."""

    id: str
    pcm: Annotated[bytes, msgspec.Meta(max_length=MAX_PUSH_BYTES)]


class ResultParams(Params, frozen=True):
    """Which job, and in which format."""

    id: str
    format: str = "text"


class ListParams(Params, frozen=True):
    """Which jobs to list: all, or those that match."""

    status: JobStatus | None = None
    since: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    """Submitted at this time (RFC 3339) or later."""
    runtime: Name | None = None
    """On the runtime with this name or id."""


class CancelParams(Params, frozen=True):
    """One job, several by their ids, or all active ones that match."""

    id: str | None = None
    ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] | None = None
    all: bool = False
    status: Literal["queued", "running"] | None = None
    """This and the fields below are as in `ListParams`; only with `all`."""
    since: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    runtime: Name | None = None

    def __post_init__(self) -> None:
        if [self.id, self.ids, self.all or None].count(None) != 2:
            raise ValueError("exactly one of id, ids and all is required")
        if not self.all and not (self.status is self.since is self.runtime is None):
            raise ValueError("status, since and runtime need all")


class ClearParams(Params, frozen=True):
    """Which of the jobs that are over to forget: by default all."""

    ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] | None = None
    older_than: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Only those that have been over for at least so many seconds."""
    purge: bool = False
    """Whether to erase their texts as well; without ids, all texts that are so old."""


async def submit(call: Call, params: SubmitParams) -> dict[str, Any]:
    """Submit a job, and return its id as soon as it is in the journal."""
    source = await _source(call, params)
    profile = params.profile if params.profile is not None else call.connection.profile
    options, lease, languages = await lease_for_options(call.service, params.options, profile)
    with lease.released_on_error():
        if source.shown.upload is not None:
            _uploaded(call, source.shown.upload)  # another job may have used it meanwhile
        job = call.service.jobs.submit(source, options, lease, languages, is_detached=params.detach)
    if job.input.upload is not None:
        call.connection.uploads.discard(job.input.upload)
        call.service.remove_upload_after(job, job.input.upload)
    if not params.detach:
        call.connection.attached_jobs.add(job)
    await call.service.jobs.acknowledged(job)
    return {"id": job.id}


async def push(call: Call, params: PushParams) -> dict[str, Any]:
    """Add audio to a live job; respond once there is room for it. `held`: seconds not processed yet."""
    job, audio_buffer = _live(call, params.id)
    try:
        await audio_buffer.push(params.pcm)
    except AudioBufferClosed:
        if job.error is not None:
            raise job.error.copy() from None
        raise WhisperdError(
            "live.finished",
            f"The live job {job.id} is finished and accepts no more audio.",
            "Submit a new live job for further audio.",
        ) from None
    return {"held": round(audio_buffer.held_s, 3)}


async def finish(call: Call, params: JobParams) -> dict[str, Any]:
    """End the audio of a live job: it completes with what was pushed."""
    _, audio_buffer = _live(call, params.id)
    await audio_buffer.finish()
    return {}


async def list_(call: Call, params: ListParams) -> list[JobView]:
    """Return the remembered jobs, the oldest first, without their texts."""
    chosen = _chosen(call, call.service.jobs.remembered(), params)
    return [job.view(with_text=False) for job in chosen]


async def show(call: Call, params: JobParams) -> JobView:
    """Return one job."""
    job = call.service.jobs.get(params.id)
    return job.view(transcript=await call.service.jobs.transcript(job))


async def wait(call: Call, params: JobParams) -> dict[str, Any]:
    """Wait until a job is over and return its result. Raises its error."""
    job = call.service.jobs.get(params.id)
    await job.over.wait()
    # In a thread: for a recording of a day this takes seconds.
    shape = await anyio.to_thread.run_sync(verbose, await _transcript(call, job))
    return {**shape, "warnings": job.warnings} if job.warnings else shape


async def result(call: Call, params: ResultParams) -> dict[str, Any]:
    """Return a completed job's text in a format."""
    transcript = await _transcript(call, call.service.jobs.get(params.id))
    # In a thread: the subtitles of a recording of a day take seconds.
    content = await anyio.to_thread.run_sync(render, transcript, params.format)
    return {"format": params.format, "content": content}


async def cancel(call: Call, params: CancelParams) -> JobView | list[JobView | dict[str, Any]]:
    """Cancel jobs and wait until they are over. Does nothing for a job that is already over.

    Returns the view of a single job; for several, a list of views, with `{id, error}` for an unknown job.
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
    """Cancel jobs, and wait until their ends are saved. Raises `WhisperdError` if they cannot be saved."""
    # The last first: queued jobs are cancelled before a running one makes way, so that none of them starts.
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
    """Retry a failed or cancelled job from where it stopped. It is detached from its client."""
    service = call.service
    job = service.jobs.to_retry(params.id)
    if job.input.is_from_client:
        raise WhisperdError(
            "job.input_gone",
            f"The input of the job {job.id} was sent by its client and is no longer stored.",
            "Submit it again with its input.",
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
    with anyio.CancelScope(shield=True):  # a client that disconnects leaves nothing half erased
        if params.purge:
            purged = await service.job_keeper.purge(ids, params.older_than, all_of_them=params.ids is None)
        cleared, ticket = service.jobs.forget(ids)
        try:
            await ticket.saved()
        except WhisperdError:
            service.jobs.restore(cleared)  # else they would reappear with the next daemon
            raise
        if params.purge:
            await service.job_keeper.erase()
    return {"cleared": len(cleared), "purged": purged}


def _to_clear(jobs: JobManager, params: ClearParams) -> list[str]:
    """Return the ids of the jobs to forget. Raises `job.unknown` and `job.not_over`."""
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
    """Return those of the jobs that match. Raises `rpc.invalid_params` and `runtime.unknown`."""
    since = None if params.since is None else _moment(params.since)
    if params.runtime is not None and not any(_is_on(job, params.runtime) for job in jobs):
        call.service.runtimes.find(params.runtime)  # a deleted runtime is known only by its jobs
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
    """Convert a time to UTC, in the format of jobs. Raises `rpc.invalid_params`."""
    try:
        return to_rfc3339(datetime.datetime.fromisoformat(text))
    except ValueError:
        raise invalid_params(f"{text!r} is not a time in RFC 3339") from None


async def _source(call: Call, params: SubmitParams) -> Source:
    """Return the source of a job's audio. Raises `WhisperdError` if it cannot be used."""
    given = params.input
    if given.stream:
        if params.detach:
            raise invalid_params("a stream belongs to its connection and cannot be detached")
        return Source(JobInput(stream=True), audio_buffer=AudioBuffer())
    if given.upload is not None:
        async with call.connection.uploading:  # until the pieces sent before are stored
            path, shown = _uploaded(call, given.upload), JobInput(upload=given.upload)
            if params.detach:
                await anyio.to_thread.run_sync(call.service.uploads.sync, given.upload)
    else:
        path = given.given_path
        shown = JobInput(path=sendable(path))
    return Source(shown, path, await check_path(path))


def _uploaded(call: Call, upload: str) -> str:
    """Return the file of an upload of this connection. Raises `upload.unknown` and `audio.empty`."""
    check_owned(call, upload)
    path = call.service.uploads.path(upload)
    if call.service.uploads.size_bytes(upload) == 0:
        raise WhisperdError("audio.empty", "The upload is empty.", "Check that the recording was saved.")
    return str(path)


def _live(call: Call, job_id: str) -> tuple[Job, AudioBuffer]:
    """Return a live job of this connection. Raises `job.unknown`, `live.not_live` and `live.not_yours`."""
    job = call.service.jobs.get(job_id)
    if job.audio_buffer is None:
        raise WhisperdError(
            "live.not_live",
            f"The job {job.id} is not live.",
            "Push only to a job that was submitted with `input: {stream: true}`.",
        )
    if job not in call.connection.attached_jobs:
        raise WhisperdError(
            "live.not_yours",
            f"The live job {job.id} belongs to another connection.",
            "Push on the connection that submitted it.",
        )
    return job, job.audio_buffer


async def _transcript(call: Call, job: Job) -> Transcript:
    if job.error is not None:
        raise job.error.copy()  # the stored error's traceback would keep connections alive
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
            f"The text of the job {job.id} is no longer stored.",
            "Transcribe it again; texts are stored only if `jobs.keep_transcripts` in the settings is true.",
        )
    return transcript
