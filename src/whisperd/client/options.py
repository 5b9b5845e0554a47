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
    """How to transcribe; `whisperctl transcribe --help` explains each."""

    language: str | None
    """A code or an English name; None detects it once, `auto` for each window separately: it may change."""
    task: Literal["transcribe", "translate"]
    beam_size: int | None
    temperature: float | Sequence[float] | None
    prompt: str | None
    hotwords: str | None
    timestamps: Literal["segment", "word"]
    """`word`: segments have `words`, each with its times."""
    vad: bool
    channels: Literal["mix", "split"]
    """`split` transcribes each channel separately, as a speaker of its own."""
    track: int | None
    """Which of several audio tracks, such as those of a film, counted from 1; None is the best."""
    clip: str | None
    """Only these parts, such as `0:30-1:45; 2:00-2:15`; None is the whole recording."""
    priority: Literal["interactive", "normal", "bulk"]
    cache: bool
    """Whether a stored transcript of the same audio may be reused."""


class JobOptions(TranscriptionOptions, total=False):
    """Options of a client's `transcribe` and `submit`."""

    runtime: str | None
    """A saved runtime's name or id; None is the profile's, else the default."""
    model: str | os.PathLike[str] | None
    """A catalogue name, a hub repository, or a model's folder: use a runtime with that model. Cannot be
    combined with `runtime`."""


class RuntimeFields(TypedDict, total=False):
    """What `runtimes.create` takes besides name and model; see `whisperctl runtimes create --help`."""

    backend: str
    """`auto`, or the name of a backend."""
    device: Device
    device_index: int | Sequence[int]
    """GPU numbers: none, one or several; each GPU gets a replica of the model."""
    compute_type: ComputeType
    cpu_threads: int
    """CPU threads per worker; with 0 the daemon chooses."""
    workers: int
    """Batches computed at once; with 0 the daemon chooses."""
    batched: bool
    batch_size: int
    """Windows computed together."""
    keep_alive: float | str
    """How long it stays loaded when idle: seconds, or a string such as `15m`; 0: not at all, -1: forever."""
    protected: bool
    """Whether deleting it is forbidden."""


class RuntimeChanges(RuntimeFields, total=False):
    """What `runtimes.edit` can change."""

    name: str
    model: str | os.PathLike[str]


class WatchFields(TypedDict, total=False):
    """What `watch.add` and `watch.edit` take; see `whisperctl watch add --help`."""

    recursive: bool
    include: Sequence[str]
    """File name patterns; none means every audio and video file."""
    exclude: Sequence[str]
    runtime: str | None
    profile: str | None
    options: JobOptions
    """All options: they replace the previous ones."""
    outputs: Sequence[str]
    """Formats, such as `text` and `srt`."""
    output_dir: str | os.PathLike[str] | None
    """None is next to the recording."""
    name: str
    """A file name template, such as `{stem}.{lang}.{ext}`."""
    overwrite: bool
    """Whether files that whisperd did not write may be replaced."""
    after: Literal["stay", "move", "delete"]
    """What happens to a finished recording."""
    move_to: str | os.PathLike[str] | None
    command: Sequence[str]
    """A program and its arguments, run after each recording."""
    notify: bool
    quiet_hours: str | None
    """When nothing is started, such as `22:00-07:00`."""


class ProfileChanges(TypedDict, total=False):
    """What `profiles.edit` can change."""

    name: str
    runtime: str | None
    options: JobOptions
    """All options: they replace the previous ones."""
