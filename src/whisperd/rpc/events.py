"""The events that the daemon sends to those who subscribed. See docs/interface.md for the table."""

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
    """Something happened. `time` and `seq` are added when it is published."""


class RuntimeStatus(Event, frozen=True, tag="runtime.status"):
    """A runtime changed its status, or got further in it."""

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
    """A setting is being tried. `done` of at most `total` seconds are spent; the margin is in seconds too."""

    model: str
    detail: str
    """`preparing`, `waiting` (somebody needs the computer), `loading` or `measuring`."""
    variant: str
    workers: int
    cpu_threads: int
    batch_size: int
    context_margin: float
    trials: int
    """Those that are done."""
    done: float
    total: float


class JobQueued(Event, frozen=True, tag="job.queued"):
    """A job was taken; `position` jobs are before it."""

    id: str
    position: int


class JobStarted(Event, frozen=True, tag="job.started"):
    """A job's first audio was decoded. `language` is None until it is known."""

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
    """A word, where the times of words were asked for; its segment follows its last one.

    `index` is its place in the segment.
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
    """A piece of text, in the order of the file."""

    id: str
    index: int
    start: float
    end: float
    text: str
    channel: int | None = None
    """From 0, where channels are heard by themselves."""
    language: str | None = None
    """What is spoken in it, as a code."""
    words: tuple[SpokenWord, ...] | None = None
    """None unless the times of words were asked for."""


class TranscriptionPartial(Event, frozen=True, tag="transcription.partial"):
    """What there is of an utterance that is still being spoken: `tentative` goes on behind `agreed`.

    Both are empty where it has turned out to be no speech. Its segments take its place.
    """

    id: str
    start: float
    end: float
    agreed: str
    """Not taken back as long as it is spoken."""
    tentative: str


class TranscriptionProgress(Event, frozen=True, tag="transcription.progress"):
    """Seconds of audio done, of those in the file; speed as a multiple of real time; seconds left."""

    id: str
    done: float
    total: float | None
    speed: float | None
    eta: float | None


class TranscriptionCompleted(Event, frozen=True, tag="transcription.completed"):
    """A job ended well. Of the `duration` of the recording, `total` was asked for: less where that was parts.
    These and `elapsed` are in seconds, `speed` is `total` by `elapsed`, `segments` a count; `cached`: a kept
    transcript answered; `warnings`: errors that say what may be wrong with the text all the same."""

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
    """A job ended with an error."""

    id: str
    error: dict[str, Any]


class TranscriptionCancelled(Event, frozen=True, tag="transcription.cancelled"):
    """A job was cancelled; `error` says by what."""

    id: str
    error: dict[str, Any]
