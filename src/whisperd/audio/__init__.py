"""Decoding, voice activity detection and windows: from a media file to pieces of speech for a model.

The daemon starts decoder processes through `open_decoder_pool`, and receives events from them. Only the parts
that run inside such a process (`decoder`, `media`, `frames`, `vad`) may import numpy, PyAV and onnxruntime.
`speech`, `windows`, `timeline` and `marks` are pure. Modules that only the daemon needs are imported on first
use, so that a decoder process starts without them.

In the daemon, the `pool` starts the processes (`process`), and a `follower` keeps a live session through the
death of one. In a process, `decoder` serves the requests: `media` reads samples (`frames`, `timeline`) and
finds places again (`marks`), `finder` detects the speech in them (`vad`, `speech`) unless it is known
(`known_speech`), `windows` cuts it, and `sampling` chooses the samples for the language. `listener` does this
for live speech (`utterances`). Both sides share `messages`, `clips`, `kinds` and `files`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from whisperd.audio.clips import Clip, elapsed_within, parse_clips
from whisperd.audio.files import digest_of, not_readable, open_regular_file
from whisperd.audio.kinds import BEGINNING_BYTES, kind_of
from whisperd.audio.known_speech import merge_found
from whisperd.audio.messages import (
    MAX_WINDOW_S,
    SAMPLE_RATE,
    Decoded,
    DecodeParams,
    DecodeProgress,
    DecoderEvent,
    Found,
    Heard,
    Opened,
    SpeechSample,
    Utterance,
    WindowAudio,
)

if TYPE_CHECKING:
    from whisperd.audio.follower import follow
    from whisperd.audio.pool import (
        MAX_KILLED,
        DecoderOptions,
        DecoderPool,
        Decoding,
        Listening,
        open_decoder_pool,
        was_killed,
    )

__all__ = [
    "BEGINNING_BYTES",
    "MAX_KILLED",
    "MAX_WINDOW_S",
    "SAMPLE_RATE",
    "Clip",
    "DecodeParams",
    "DecodeProgress",
    "Decoded",
    "DecoderEvent",
    "DecoderOptions",
    "DecoderPool",
    "Decoding",
    "Found",
    "Heard",
    "Listening",
    "Opened",
    "SpeechSample",
    "Utterance",
    "WindowAudio",
    "digest_of",
    "elapsed_within",
    "follow",
    "kind_of",
    "media_lock",
    "merge_found",
    "not_readable",
    "open_decoder_pool",
    "open_regular_file",
    "parse_clips",
    "was_killed",
]


@functools.cache
def media_lock() -> str:
    """Return the lock file of the `media` bundle, which contains the dependencies of a decoder process."""
    from importlib import resources

    return resources.files(__name__).joinpath("media.lock").read_text("utf-8")


def __getattr__(name: str) -> Any:
    if name in __all__:
        from whisperd.audio import follower, pool

        return getattr(follower if name == "follow" else pool, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
