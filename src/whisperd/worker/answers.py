"""Validates an engine's results against its protocol. Pure.

An engine comes from a plugin. Its results are checked once, where they are returned, so that all later code
can rely on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from whisperd.decodable import decodable
from whisperd.rpc.errors import WhisperdError
from whisperd.worker.protocol import DecodeOptions, EngineWindow, WindowResult

__all__ = ["Transcribe", "bad_answer", "checked"]

Transcribe = Callable[[Sequence[EngineWindow], DecodeOptions], list[WindowResult]]
"""The signature of `Engine.transcribe`."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(decodable(list[WindowResult])).decode


def bad_answer(method: str, reason: str) -> WhisperdError:
    """Return the error for an engine whose answer violates its protocol."""
    return WhisperdError(
        "worker.bad_answer",
        f"The engine's answer to {method} is invalid: {reason}.",
        "Update whisperd and its plugins to the same version.",
    )


def checked(transcribe: Transcribe) -> Transcribe:
    """Return the same function, except that it raises `worker.bad_answer` for anything but valid results."""

    def transcribe_checked(windows: Sequence[EngineWindow], options: DecodeOptions) -> list[WindowResult]:
        answer = transcribe(windows, options)
        try:
            # Encode and decode it as on the way to the daemon: only this checks every field.
            results = _decode(_encode(answer))
        except (TypeError, ValueError) as error:
            raise bad_answer("transcribe", str(error)) from error
        if len(results) != len(windows):
            raise bad_answer("transcribe", f"{len(results)} results for {len(windows)} windows")
        return results

    return transcribe_checked
