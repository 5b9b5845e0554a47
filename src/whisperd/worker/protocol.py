"""What a worker asks of an engine, and the values that travel between daemon and worker.

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
"""Samples per second of all audio after decoding."""

MAX_REPLICAS = 64
"""The most that one worker computes with: so many batches at the same time."""


ComputeType = Literal[
    "auto", "int8", "int8_float16", "int8_float32", "int8_bfloat16", "float16", "bfloat16", "float32"
]
"""Precision of weights and of computing, as CTranslate2 names them; `auto` is for the daemon to choose."""


SpokenTime = tuple[float, float]
"""From when to when somebody speaks, in seconds from the beginning of the window."""


class LoadParams(msgspec.Struct, frozen=True, kw_only=True):
    """What to load and how."""

    model_path: str
    model_name: str | None = None
    """How a person calls the model; what is used in place is called by its path."""
    bundle_name: str | None = None
    """The native bundle on the path, for a person."""
    device: str = "cpu"
    device_index: tuple[int, ...] = (0,)
    compute_type: str = "int8"
    cpu_threads: int = 1
    """Threads of each replica."""
    replicas: int = 1
    """How many batches may be computed at the same time, on all GPUs together."""
    context_margin_s: float | None = None
    """Seconds of silence behind a window of 10 s or more; a shorter one has 2 s more. None: what is usual."""


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded."""

    multilingual: bool
    languages: tuple[str, ...]
    compute_type: str
    library: str
    """Name and version of the native library."""
    cancels: bool = False
    """Whether it is a `CancellableEngine`."""
    word_times: bool = False
    """Whether it can tell, with this model, when each word is said. Where not, it is never asked to."""
    overtakes: bool = False
    """Whether it can compute one batch more than it has replicas: what is urgent then waits for none."""
    equal_contexts: bool = False
    """Whether it computes only windows together that have the same `common_context_frames`, with the margin
    that it was loaded with."""
    keeps_memory: bool = False
    """Whether it takes large blocks and frees them again in every layer: what is free is then kept for it
    while it computes, where the system would have it back at once."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the model though it works, for the log."""


class DecodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to decode. Windows share a batch only when these are equal."""

    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    """An ISO 639-1 code, or None: found by vote among the windows of one `group`."""
    languages: tuple[str, ...] = ()
    """Those that one that is found may be; none: any."""
    beam_size: int = 5
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tried in turn while the result looks bad."""
    prompt: str | None = None
    hotwords: str | None = None
    word_times: bool = False
    """Whether segments are to have `words`."""


class EngineWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A window to transcribe."""

    pcm: bytes
    group: int = 0
    """Windows of one group are of one recording; they vote together on an unknown language."""
    spoken: tuple[SpokenTime, ...] | None = None
    """When somebody speaks in it, as far as that is known; the engine may do without."""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.pcm) / 2 / SAMPLE_RATE


class BatchParams(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of windows with common options."""

    windows: tuple[EngineWindow, ...]
    options: DecodeOptions
    id: int = 0
    """By which a batch that is being computed is named; the daemon's handle on the worker chooses it."""


class CancelParams(msgspec.Struct, frozen=True, kw_only=True):
    """Windows of a batch whose results nobody wants any more."""

    id: int
    groups: tuple[int, ...]


class EngineWord(msgspec.Struct, frozen=True, kw_only=True):
    """A word with its punctuation and the space before it, its times relative to the window."""

    text: str
    start: float
    end: float
    probability: float


class EngineSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of recognised speech, its times relative to the window."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: tuple[EngineWord, ...] = ()
    """If they were asked for: those of the text, one after the other, within the segment.

    An engine that knows them all the same gives them unasked: a missing sentence is easier to find with them.
    """


class WindowResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was said in a window; no segments where nobody spoke."""

    language: str
    language_probability: float
    segments: tuple[EngineSegment, ...]


UNWANTED = WindowResult(language="en", language_probability=0.0, segments=())
"""Stands for the result of a window that nobody wants any more."""

IsWanted = Callable[[EngineWindow], bool]
"""Whether a window of the batch is still to be computed. Any thread may ask, at any time, and often."""


class Engine(Protocol):
    """A loaded model. `transcribe` is called from as many threads at once as there are replicas; where
    `info.overtakes`, from one more."""

    info: EngineInfo

    def transcribe(self, windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        """Transcribe a batch; one result for each window, in order."""


class CancellableEngine(Engine, Protocol):
    """An engine that can leave out windows of a batch that nobody wants any more. Its `info.cancels` is true.

    An engine that cannot is not asked to: it computes the batch to its end, and the results are dropped.
    """

    def transcribe(
        self, windows: Sequence[EngineWindow], options: DecodeOptions, is_wanted: IsWanted = ...
    ) -> list[WindowResult]:
        """As that of any engine; what stands for the result of an unwanted window is not looked at."""


LoadEngine = Callable[[LoadParams], Engine]
"""Loads a model, or raises `WhisperdError`. Any other exception is told of as `faults` knows it, or as
`model.load_failed`."""
