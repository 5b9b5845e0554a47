"""The options of a transcription, for type checkers. Nothing here is imported when a client starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

__all__ = [
    "ComputeType",
    "Device",
    "JobOptions",
    "ProfileChanges",
    "RuntimeChanges",
    "RuntimeFields",
    "TranscriptionOptions",
    "WatchFields",
]

Device = Literal["auto", "cuda", "cpu"]
ComputeType = Literal[
    "auto", "int8", "int8_float16", "int8_float32", "int8_bfloat16", "float16", "bfloat16", "float32"
]


class TranscriptionOptions(TypedDict, total=False):
    """How something is transcribed; `whisperctl transcribe --help` explains each."""

    language: str | None
    """A code or an English name; None finds out once, `auto` for each window by itself: it may change."""
    task: Literal["transcribe", "translate"]
    beam_size: int | None
    temperature: float | Sequence[float] | None
    prompt: str | None
    hotwords: str | None
    timestamps: Literal["segment", "word"]
    """`word`: segments have `words`, each with its times."""
    vad: bool
    channels: Literal["mix", "split"]
    """`split` hears each channel by itself, as if somebody else spoke in each."""
    track: int | None
    """Which of several audio tracks, such as of a film, counted from 1; None is the best."""
    clip: str | None
    """Only these parts, such as `0:30-1:45; 2:00-2:15`; None is all of it."""
    priority: Literal["interactive", "normal", "bulk"]
    cache: bool
    """Whether a transcript of the same audio that was kept may be the answer."""


class JobOptions(TranscriptionOptions, total=False):
    """What `transcribe` and `submit` of a client take."""

    runtime: str | None
    """A saved runtime's name or id; None is the profile's, else the default."""
    model: str | os.PathLike[str] | None
    """A name of the catalogue, a hub repository, or a model's folder: a runtime with that model, not beside
    `runtime`."""


class RuntimeFields(TypedDict, total=False):
    """What `runtimes.create` takes beside name and model; see `whisperctl runtimes create --help`."""

    backend: str
    """`auto`, or the name of a backend."""
    device: Device
    device_index: int | Sequence[int]
    """GPUs by their numbers: none, one or several, of which each gets a replica of the model."""
    compute_type: ComputeType
    cpu_threads: int
    """Of each worker; 0 lets the daemon choose."""
    workers: int
    """Batches computed at once; 0 lets the daemon choose."""
    batched: bool
    batch_size: int
    """Windows computed together."""
    keep_alive: float | str
    """How long it stays loaded unused: seconds, or a text such as `15m`; 0 is not at all, -1 for ever."""
    protected: bool
    """Whether it may not be deleted."""


class RuntimeChanges(RuntimeFields, total=False):
    """What `runtimes.edit` can change."""

    name: str
    model: str | os.PathLike[str]


class WatchFields(TypedDict, total=False):
    """What `watch.add` and `watch.edit` take; see `whisperctl watch add --help`."""

    recursive: bool
    include: Sequence[str]
    """Patterns of names; none is every audio and video file."""
    exclude: Sequence[str]
    runtime: str | None
    profile: str | None
    options: JobOptions
    """All of them: these take the place of those that were there."""
    outputs: Sequence[str]
    """Formats, such as `text` and `srt`."""
    output_dir: str | os.PathLike[str] | None
    """None is beside the recording."""
    name: str
    """A template of names, such as `{stem}.{lang}.{ext}`."""
    overwrite: bool
    """Whether files may be replaced that whisperd has not written."""
    after: Literal["stay", "move", "delete"]
    """What becomes of a recording that is done."""
    move_to: str | os.PathLike[str] | None
    command: Sequence[str]
    """A program and its arguments, run after each recording."""
    notify: bool
    quiet_hours: str | None
    """When nothing is begun, such as `22:00-07:00`."""


class ProfileChanges(TypedDict, total=False):
    """What `profiles.edit` can change."""

    name: str
    runtime: str | None
    options: JobOptions
    """All of them: these take the place of those that were there."""
