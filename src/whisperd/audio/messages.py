"""Messages between the daemon and a decoder process. Times are seconds on the file's timeline."""

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
"""The length of audio that Whisper processes at once."""

EVENT_METHOD = "event"
"""The notification that carries every `DecoderEvent`."""


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found"):
    """Speech found on one channel of one part since the last report."""

    part: int
    """Index of the clip; 0 if the whole file is one."""
    channel: int
    position: int
    """Number of samples of the part searched so far. No one is speaking at that point."""
    spans: bytes
    """The spans found since the last report; see `whisperd.audio.known_speech.pack`."""
    memory: bytes
    """The state of the detector and its network at that point."""
    marks: bytes = b""
    """Places from which the file can be decoded again; see `whisperd.audio.marks.Marker`."""


class DecodeParams(Params, frozen=True):
    """What to decode, and how to cut it."""

    path: str
    path_bytes: bytes | None = None
    """The path if it is not UTF-8, in which case `path` only displays it."""
    vad: bool = True
    """Send only parts with speech; otherwise everything, still cut in quiet places."""
    max_window_s: Annotated[float, msgspec.Meta(ge=1, le=MAX_WINDOW_S)] = 26.0
    """Longest window."""
    channels: Literal["mix", "split"] = "mix"
    """`split`: each channel separately, as if each had another speaker."""
    track: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Number of the audio track, counted from 1; None: the best."""
    clips: tuple[Clip, ...] = ()
    """Parts to decode, in order and without overlap; empty: everything."""
    samples: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    """Number of pieces of speech, from all over the file, sent before its windows to detect its language."""
    samples_from_s: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    """Shorter recordings have no samples: their first windows are most of them."""
    max_duration_s: Annotated[float, msgspec.Meta(gt=0)] = 48 * 3600.0
    """More audio than this is an error."""
    found: tuple[Found, ...] = ()
    """Speech found by an earlier decode of the same file with the same parameters; merged."""
    done_until: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Windows that begin before this time are done: they are sent without samples."""

    @property
    def file(self) -> str:
        """The path to open."""
        return self.path if self.path_bytes is None else os.fsdecode(self.path_bytes)


class FeedParams(Params, frozen=True):
    """Live audio since the last message: 16-bit little-endian samples at 16 kHz."""

    pcm: bytes
    partials: bool = True
    """Whether unfinished utterances are wanted."""


class Utterance(msgspec.Struct, frozen=True, kw_only=True):
    """Speech between two pauses, or its beginning so far."""

    start: float
    end: float
    is_final: bool
    """Whether it is over: the next one begins at its end or later."""
    is_likely_final: bool = False
    """Whether it has probably ended; if so, the final one will have the same start and end."""
    pcm: bytes


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """Live speech to transcribe, in order; an unfinished utterance comes last."""

    position: float
    """Seconds of audio searched for speech so far."""
    utterances: tuple[Utterance, ...]


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The file was opened and contains audio."""

    duration: float | None
    """The duration that the file states; None if it states none, or none that is plausible."""


class SpeechSample(msgspec.Struct, frozen=True, kw_only=True, tag="sample"):
    """A few seconds of speech from somewhere in the file, for language detection."""

    pcm: bytes


class WindowAudio(msgspec.Struct, frozen=True, kw_only=True, tag="window"):
    """A window, the unit of work: the samples from `start` to `end`. Windows are sent in order of `start`."""

    index: int
    start: float
    end: float
    pcm: bytes
    """Empty if the request said that this window is done."""
    channel: int | None = None
    """Channel number from 0, if channels are transcribed separately."""
    spoken: tuple[SpokenTime, ...] | None = None
    """When someone speaks in it, in seconds from `start`."""
    shared: float = 0.0
    """Seconds at its end that the next window of its channel begins with, because speech continues there."""


class DecodeProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Decoding continues; sent about twice a second, to show that the decoder is not stuck."""


class Decoded(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a decode: everything was sent."""

    duration: float
    """The actual length of the audio."""
    speech: float
    """Seconds with speech."""
    windows: int
    skipped: int = 0
    """Number of skipped damaged packets."""


DecoderEvent = Opened | SpeechSample | WindowAudio | DecodeProgress | Found
