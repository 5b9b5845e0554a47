"""The interface between a worker and its engine, and the messages between daemon and worker.

A backend plugin implements `Engine` and a function of the type `LoadEngine`. Audio is 16 kHz mono
signed 16-bit little-endian PCM; times are seconds from the beginning of the window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

__all__ = [
    "MAX_REPLICAS",
    "SAMPLE_RATE",
    "UNWANTED",
    "BatchParams",
    "CancelParams",
    "CancellableEngine",
    "ComputeType",
    "DecodeOptions",
    "Engine",
    "EngineInfo",
    "EngineSegment",
    "EngineWindow",
    "EngineWord",
    "IsWanted",
    "LoadEngine",
    "LoadParams",
    "SpokenTime",
    "WindowResult",
]

SAMPLE_RATE = 16_000
"""Samples per second of all decoded audio."""

MAX_REPLICAS = 64
"""The most replicas of one worker, which compute as many batches concurrently."""


ComputeType = Literal[
    "auto", "int8", "int8_float16", "int8_float32", "int8_bfloat16", "float16", "bfloat16", "float32"
]
"""Precision of the weights and of computing, as named by CTranslate2; for `auto`, the daemon chooses."""


SpokenTime = tuple[float, float]
"""Start and end of a stretch of speech, in seconds from the beginning of the window."""


class LoadParams(msgspec.Struct, frozen=True, kw_only=True):
    """What to load and how."""

    model_path: str
    model_name: str | None = None
    """The model's name for messages to users; for a model used in place, its path."""
    bundle_name: str | None = None
    """The name of the native bundle on the path, for messages to users."""
    device: str = "cpu"
    device_index: tuple[int, ...] = (0,)
    compute_type: str = "int8"
    cpu_threads: int = 1
    """Threads of each replica."""
    replicas: int = 1
    """How many batches may be computed concurrently, on all GPUs together."""
    context_margin_s: float | None = None
    """Seconds of silence after a window of 10 s or more; shorter ones get 2 s more. None: the usual one."""


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A description of the loaded engine and model."""

    multilingual: bool
    languages: tuple[str, ...]
    compute_type: str
    library: str
    """Name and version of the native library."""
    cancels: bool = False
    """Whether it is a `CancellableEngine`."""
    word_times: bool = False
    """Whether it can determine the times of words with this model. If not, they are never requested."""
    overtakes: bool = False
    """Whether it can compute one batch more than it has replicas, so that an urgent batch need not wait."""
    equal_contexts: bool = False
    """Whether it batches only windows with equal `common_context_frames` (for the margin of its load)."""
    keeps_memory: bool = False
    """Whether it allocates and frees large blocks in every layer: freed memory is then kept for it while it
    computes, instead of being returned to the system at once."""
    warnings: tuple[str, ...] = ()
    """Problems of a model that works nevertheless, for the log."""


class DecodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to decode. Windows share a batch only when these are equal."""

    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    """An ISO 639-1 code, or None: detected by a vote among the windows of one `group`."""
    languages: tuple[str, ...] = ()
    """The candidates for a detected language; empty: any."""
    beam_size: int = 5
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tried in turn for as long as the result looks bad."""
    prompt: str | None = None
    hotwords: str | None = None
    word_times: bool = False
    """Whether segments must have `words`."""


class EngineWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window to transcribe."""

    pcm: bytes
    group: int = 0
    """Windows of one group are from one recording; they vote together on an unknown language."""
    spoken: tuple[SpokenTime, ...] | None = None
    """When somebody speaks in it, if known; the engine may ignore it."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.pcm) / 2 / SAMPLE_RATE


class BatchParams(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of windows with common options."""

    windows: tuple[EngineWindow, ...]
    options: DecodeOptions
    id: int = 0
    """Identifies a batch while it is computed; assigned by the daemon's handle on the worker."""


class CancelParams(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of a batch whose results are no longer wanted."""

    id: int
    groups: tuple[int, ...]


class EngineWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word with its punctuation and the space before it; times are relative to the window."""

    text: str
    start: float
    end: float
    probability: float


class EngineSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of recognised speech; times are relative to the window."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[EngineWord, ...] = ()
    """If requested: all words of the text, in order, within the segment.

    An engine that has them anyway returns them unrequested: they help to find missing sentences.
    """


class WindowResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was said in a window; no segments if nobody spoke."""

    language: str
    language_probability: float
    segments: tuple[EngineSegment, ...]
    is_cut_off: bool = False
    """Whether the text may be incomplete, because the decoder can write no more tokens at once."""


UNWANTED = WindowResult(language="en", language_probability=0.0, segments=())
"""A placeholder for the result of a window that is no longer wanted."""

IsWanted = Callable[[EngineWindow], bool]
"""Whether a window of the batch still has to be computed. Any thread may call it, at any time and often."""


class Engine(Protocol):
    """A loaded model. `transcribe` is called concurrently from as many threads as there are replicas, or one
    more if `info.overtakes`."""

    info: EngineInfo

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        """Transcribe a batch; returns one result for each window, in order."""


class CancellableEngine(Engine, Protocol):
    """An engine that can skip windows of a batch that are no longer wanted. Its `info.cancels` is true.

    Other engines compute the whole batch, and the unwanted results are dropped.
    """

    def transcribe(
        self, windows: Sequence[EngineWindow], options: DecodeOptions, is_wanted: IsWanted = ...
    ) -> list[WindowResult]:
        """Transcribe like any engine; the results of unwanted windows are ignored."""


LoadEngine = Callable[[LoadParams], Engine]
"""Loads a model, or raises `WhisperdError`. Any other exception is reported as `faults` explains it, or as
`model.load_failed`."""
