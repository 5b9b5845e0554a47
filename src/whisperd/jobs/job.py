"""A job, and how it is shown to clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import msgspec

from whisperd.clock import now_rfc3339
from whisperd.jobs.audio_buffer import AudioBuffer
from whisperd.jobs.identity import FileStamp
from whisperd.jobs.options import JobOptions
from whisperd.jobs.scheduler import Priority
from whisperd.jobs.segments import Transcript
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.store import Ticket

__all__ = [
    "Job",
    "JobInput",
    "JobStatus",
    "JobView",
    "Source",
    "hide_upload_path",
]

JobStatus = Literal["queued", "running", "completed", "failed", "cancelled"]


class JobInput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The input of a job: a file of the user's, an upload, or live audio."""

    path: str | None = None
    upload: str | None = None
    stream: bool = False

    @property
    def is_from_client(self) -> bool:
        """Whether the client sent the audio, so that it is deleted with the job."""
        return self.path is None


@dataclass(frozen=True)
class Source:
    """Where the audio of a job comes from."""

    shown: JobInput
    """The input as the user named it."""
    path: str = ""
    """The file to decode; empty for a live job."""
    stamp: FileStamp | None = None
    """The current stamp of the file."""
    content_hash: str | None = None
    """The SHA-256 of the file with this stamp, if already known."""
    audio_buffer: AudioBuffer | None = None
    """The incoming audio of a live job."""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as shown to clients. `progress` is in percent, `speed` a multiple of real time."""

    id: str
    status: JobStatus
    detail: str | None
    """What a queued job waits for, if that is its runtime: `downloading base 40 %`, `loading`."""
    input: JobInput
    options: JobOptions
    runtime: str
    priority: Priority
    created: str
    started: str | None
    ended: str | None
    progress: float | None
    speed: float | None
    error: dict[str, Any] | None
    warnings: tuple[dict[str, Any], ...]
    text: str | None
    detached: bool
    """Whether it survives the end of its client and of the daemon."""
    cached: bool
    """Whether a stored transcript answered it."""


@dataclass(eq=False)
class Job:
    """One transcription of one input. Only this room changes it."""

    id: str
    path: str
    """The file to decode: for an upload not the path that the user named, for a live job empty."""
    input: JobInput
    options: JobOptions
    runtime: str
    """The name of the runtime when the job was submitted."""
    runtime_id: str | None = None
    """None for a runtime created for one job only."""
    model: str = ""
    """The model of the runtime at that time."""
    is_detached: bool = False
    """Whether it continues without its client, and in the next daemon."""
    is_resumed: bool = False
    """Whether an earlier run may have finished some windows."""
    is_at_work: bool = False
    """Whether its windows are being computed."""
    interruptions: int = 0
    """How many times a daemon ended unexpectedly while working on it."""
    finished_at_begin: int = 0
    """Windows already finished when the current run began."""
    is_cached: bool = False
    """Whether a stored transcript answered it."""
    stamp: FileStamp | None = None
    """The stamp of the file when the job was submitted, or when its run began."""
    inode: int | None = None
    """The inode of the file when it was read to the end, if this daemon did so."""
    content_hash: str | None = None
    """The SHA-256 of the file, if known."""
    recipe: str | None = None
    """The digest of the recipe of its windows, once known."""
    answered_by: str | None = None
    """The key of the stored transcript that answered it."""
    waits_for: Callable[[], str | None] = lambda: None
    """Returns what its runtime does before it can be used."""
    status: JobStatus = "queued"
    created: str = field(default_factory=now_rfc3339)
    started: str | None = None
    ended: str | None = None
    duration_s: float | None = None
    elapsed_s: float | None = None
    """How long the run took, once the job is completed."""
    done_s: float = 0.0
    speed: float | None = None
    language: str | None = None
    error: WhisperdError | None = None
    warnings: tuple[dict[str, Any], ...] = ()
    """Possible problems with the text of a completed job, as errors in wire format."""
    transcript: Transcript | None = None
    """The result; once it is saved, it may be only in the database."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)
    """Set when the job has ended, in whatever way."""
    submission: Ticket | None = None
    """Tracks the saving of its submission."""
    end: Ticket | None = None
    """Tracks the saving of its end."""
    cancelled_by: WhisperdError | None = None
    audio_buffer: AudioBuffer | None = None
    """The incoming audio of a live job."""
    is_suspended: bool = False
    """Whether it stops here to resume in the next daemon."""

    @property
    def survives(self) -> bool:
        """Whether it resumes in the next daemon when this one ends."""
        return self.is_detached and self.cancelled_by is None

    @property
    def progress(self) -> float | None:
        """Percentage of the audio that is done; None while its length is unknown."""
        if self.status == "completed":
            return 100.0
        if not self.duration_s:
            return None
        return round(min(100.0, 100 * self.done_s / self.duration_s), 1)

    def warn(self, warning: WhisperdError) -> None:
        """Note a possible problem with the text; only one for each code."""
        if not self.has_warning(warning.code):
            self.warnings += (warning.to_wire(),)

    def has_warning(self, code: str) -> bool:
        """Whether there is a warning with this code."""
        return any(warning["code"] == code for warning in self.warnings)

    def view(self, *, with_text: bool = True, transcript: Transcript | None = None) -> JobView:
        """Return the job as shown to clients; lists omit the text. Pass `transcript` if it is only stored."""
        transcript = self.transcript or transcript
        return JobView(
            id=self.id,
            status=self.status,
            detail=self.waits_for() if self.status == "queued" else None,
            input=self.input,
            options=self.options,
            runtime=self.runtime,
            priority=self.options.priority,
            created=self.created,
            started=self.started,
            ended=self.ended,
            progress=self.progress,
            speed=self.speed,
            error=self.error.to_wire() if self.error else None,
            warnings=self.warnings,
            text=transcript.text if transcript and with_text else None,
            detached=self.is_detached,
            cached=self.is_cached,
        )


def hide_upload_path(job: Job, error: WhisperdError) -> WhisperdError:
    """Return the error without the path of the uploaded file, which its sender does not know."""
    path = sendable(job.path)
    if job.input.upload is None:
        return error
    message = error.message.replace(path, "the recording that was sent")
    data = {name: None if value == path else value for name, value in error.data.items()}
    return WhisperdError(error.code, message[:1].upper() + message[1:], error.fix, data)
