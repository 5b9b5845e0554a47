"""Whether what an engine answers is what its protocol says. Pure.

An engine comes from a plugin. What it answers is checked once, where it answers, so that nothing behind that
has to wonder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from whisperd.rpc.errors import WhisperdError
from whisperd.worker.protocol import DecodeOptions, EngineWindow, WindowResult

__all__ = ["Transcribe", "bad_answer", "checked"]

Transcribe = Callable[[Sequence[EngineWindow], DecodeOptions], list[WindowResult]]
"""As `Engine.transcribe`."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[WindowResult]).decode


def bad_answer(method: str, reason: str) -> WhisperdError:
    """Return the error for an engine whose answer violates its protocol."""
    return WhisperdError(
        "worker.bad_answer",
        f"The engine's answer to {method} is invalid: {reason}.",
        "Update whisperd and its plugins to the same version.",
    )


def checked(transcribe: Transcribe) -> Transcribe:
    """The same, but it raises `worker.bad_answer` in place of answering with anything but results."""

    def transcribe_checked(windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        answer = transcribe(windows, options)
        try:
            # As it travels to the daemon: only so is each field looked at.
            results = _decode(_encode(answer))
        except (TypeError, ValueError) as error:
            raise bad_answer("transcribe", str(error)) from error
        if len(results) != len(windows):
            raise bad_answer("transcribe", f"{len(results)} results for {len(windows)} windows")
        return results

    return transcribe_checked
