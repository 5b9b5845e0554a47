"""The events that the daemon sends to subscribers. docs/interface.md lists them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "CalibrationProgress",
    "Event",
    "JobQueued",
    "JobStarted",
    "ModelProgress",
    "NativeProgress",
    "RuntimeStatus",
    "RuntimeStatusName",
    "SpokenWord",
    "TranscriptionCancelled",
    "TranscriptionCompleted",
    "TranscriptionFailed",
    "TranscriptionPartial",
    "TranscriptionProgress",
    "TranscriptionSegment",
    "TranscriptionWord",
]

RuntimeStatusName = Literal["unloaded", "downloading", "loading", "loaded", "failed", "cancelled"]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all events. `time` and `seq` are added when it is published."""


class RuntimeStatus(Event, frozen=True, tag="runtime.status"):
    """The status of a runtime, or its progress, changed."""

    id: str
    name: str
    status: RuntimeStatusName
    progress: float | None = None
    detail: str | None = None
    error: dict[str, Any] | None = None


class _DownloadProgress(Event, frozen=True):
    name: str
    file: str | None
    done: int
    total: int | None
    rate: float | None
    eta: float | None
    detail: str


class NativeProgress(_DownloadProgress, frozen=True, tag="native.progress"):
    """A native bundle is being installed."""


class ModelProgress(_DownloadProgress, frozen=True, tag="model.progress"):
    """A model is being downloaded."""


class CalibrationProgress(Event, frozen=True, tag="calibration.progress"):
    """A setting is being tried; `done` of at most `total` seconds are spent. The margin is in seconds too."""

    model: str
    detail: str
    """`preparing`, `waiting` (the computer is in use), `loading` or `measuring`."""
    variant: str
    workers: int
    cpu_threads: int
    batch_size: int
    context_margin: float
    trials: int
    """The number of completed trials."""
    done: float
    total: float


class JobQueued(Event, frozen=True, tag="job.queued"):
    """A job was accepted; `position` other jobs were queued or running."""

    id: str
    position: int


class JobStarted(Event, frozen=True, tag="job.started"):
    """The first audio of a job was decoded. `language` is None until it is known."""

    id: str
    runtime: str
    language: str | None
    duration: float | None


class SpokenWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word with its punctuation, in the shape of OpenAI's `verbose_json`."""

    word: str
    start: float
    end: float
    probability: float


class TranscriptionWord(Event, frozen=True, tag="transcription.word"):
    """A word, sent only if the times of words were requested. The segment follows its last word.

    `index` is the word's position in the segment.
    """

    id: str
    segment: int
    index: int
    start: float
    end: float
    text: str
    probability: float
    channel: int | None = None


class TranscriptionSegment(Event, frozen=True, tag="transcription.segment"):
    """A segment of text, in the order of the file."""

    id: str
    index: int
    start: float
    end: float
    text: str
    channel: int | None = None
    """Counted from 0, if channels are transcribed separately."""
    language: str | None = None
    """The code of the language spoken in it."""
    words: tuple[SpokenWord, ...] | None = None
    """None unless the times of words were requested."""


class TranscriptionPartial(Event, frozen=True, tag="transcription.partial"):
    """The text so far of an utterance that is still being spoken: `agreed`, continued by `tentative`.

    Both are empty if it turned out not to be speech. Its segments replace it.
    """

    id: str
    start: float
    end: float
    agreed: str
    """Not changed while the utterance is being spoken."""
    tentative: str


class TranscriptionProgress(Event, frozen=True, tag="transcription.progress"):
    """Seconds of audio done, and in total; speed as a multiple of real time; seconds left."""

    id: str
    done: float
    total: float | None
    speed: float | None
    eta: float | None


class TranscriptionCompleted(Event, frozen=True, tag="transcription.completed"):
    """A job completed.

    `total` is how much of the recording's `duration` was requested: less if only parts were. These and
    `elapsed` are in seconds; `speed` is `total` divided by `elapsed`; `segments` is a count. `cached`: the
    result is a stored transcript. `warnings`: errors that say what may be wrong with the text nevertheless.
    """

    id: str
    text: str
    language: str | None
    duration: float
    total: float
    elapsed: float
    speed: float
    segments: int
    runtime: str
    cached: bool = False
    warnings: tuple[dict[str, Any], ...] = ()


class TranscriptionFailed(Event, frozen=True, tag="transcription.failed"):
    """A job failed with an error."""

    id: str
    error: dict[str, Any]


class TranscriptionCancelled(Event, frozen=True, tag="transcription.cancelled"):
    """A job was cancelled; `error` says why."""

    id: str
    error: dict[str, Any]
