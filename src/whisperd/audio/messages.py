"""What travels between the daemon and a decoder process. Times are seconds on the file's own time line."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import msgspec

from whisperd.audio.clips import Clip
from whisperd.rpc.messages import Params
from whisperd.worker.protocol import SAMPLE_RATE, SpokenTime

__all__ = [
    "EVENT_METHOD",
    "MAX_WINDOW_S",
    "SAMPLE_RATE",
    "DecodeParams",
    "DecodeProgress",
    "Decoded",
    "DecoderEvent",
    "FeedParams",
    "Found",
    "Heard",
    "Opened",
    "SpeechSample",
    "Utterance",
    "WindowAudio",
]

MAX_WINDOW_S = 30.0
"""What Whisper hears at once."""

EVENT_METHOD = "event"
"""The notification under which every `DecoderEvent` is sent."""


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found"):
    """What was found on one channel of one part since this was told last."""

    part: int
    """Which of the clips; 0 where all of the file is one."""
    channel: int
    position: int
    """How many samples of the part were listened to. Nobody speaks there."""
    spans: bytes
    """As `whisperd.audio.found.pack` makes them: what was found since the last time."""
    memory: bytes
    """The state of the network there."""
    marks: bytes = b""
    """As `whisperd.audio.marks.Marker` makes them: places from which the file can be decoded again."""


class DecodeParams(Params, frozen=True):
    """What to decode and how to cut it."""

    path: str
    path_bytes: bytes | None = None
    """The path where it is not UTF-8, so that `path` can only show it."""
    vad: bool = True
    """Send only the parts in which somebody speaks; otherwise everything, still cut where it is quiet."""
    max_window_s: Annotated[float, msgspec.Meta(ge=1, le=MAX_WINDOW_S)] = 26.0
    """No window is longer."""
    channels: Literal["mix", "split"] = "mix"
    """`split`: each channel by itself, as if somebody else spoke in each."""
    track: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Which of several audio tracks, counted from 1; None: the best."""
    clips: tuple[Clip, ...] = ()
    """Only these parts, in order, not overlapping; none: all of it."""
    samples: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    """So many pieces of speech, spread over the file, are sent before its windows, to find its language."""
    max_duration_s: Annotated[float, msgspec.Meta(gt=0)] = 48 * 3600.0
    """More audio than this is an error."""
    found: tuple[Found, ...] = ()
    """What an earlier decode of the same file, with the same parameters, has found; merged."""
    done_until: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Windows that begin before this second are done: they come without their samples."""

    @property
    def file(self) -> str:
        """The path to open."""
        return self.path if self.path_bytes is None else os.fsdecode(self.path_bytes)


class FeedParams(Params, frozen=True):
    """What was spoken since the last time, 16-bit little-endian samples at 16 kHz."""

    pcm: bytes
    partials: bool = True
    """Whether an utterance is wanted in which somebody still speaks."""


class Utterance(msgspec.Struct, frozen=True, kw_only=True):
    """What was said between two pauses, or as much as there is of it."""

    start: float
    end: float
    is_final: bool
    """Whether it is over: a later one begins where it ends, or behind."""
    is_likely_final: bool = False
    """Whether it has probably ended; if so, it will come as final with the same start and end."""
    pcm: bytes


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to transcribe of live speech, in order; one that is not over comes last."""

    position: float
    """How far it has listened."""
    utterances: tuple[Utterance, ...]


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The file was opened and has audio."""

    duration: float | None
    """What the file says of itself; None where it says nothing or nothing credible."""
    container: str
    codec: str
    sample_rate: int
    channels: int


class SpeechSample(msgspec.Struct, frozen=True, kw_only=True, tag="sample"):
    """A few seconds of speech from somewhere in the file, by which to find its language."""

    pcm: bytes


class WindowAudio(msgspec.Struct, frozen=True, kw_only=True, tag="window"):
    """A window, the unit of work: the samples from `start` to `end`. They come in the order of `start`."""

    index: int
    start: float
    end: float
    pcm: bytes
    """Empty where it was said that this window is done."""
    channel: int | None = None
    """From 0, where channels are heard by themselves."""
    spoken: tuple[SpokenTime, ...] | None = None
    """When somebody speaks in it, in seconds from `start`."""
    shared: float = 0.0
    """Seconds at its end that the next window of its channel begins with: somebody speaks on there."""


class DecodeProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Decoding goes on; sent about twice a second, so that nobody takes it for stuck."""


class Decoded(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a decode: everything was sent."""

    duration: float
    """How long the audio really is."""
    speech: float
    """Seconds in which somebody speaks."""
    windows: int
    skipped: int = 0
    """Damaged packets that were passed over."""


DecoderEvent = Opened | SpeechSample | WindowAudio | DecodeProgress | Found
