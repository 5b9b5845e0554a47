"""Splits a byte stream into MessagePack values, within limits. Performs no I/O.

The end of a frame is first found without building a single object (`Unpacker.skip`); then its structure is
walked, under limits on depth and number of values. Only a frame that passes is decoded, so a hostile peer can
make us hold `max_frame_bytes` and no more: a frame of 4 MB of empty arrays would otherwise become a quarter
of a gigabyte of Python lists. Frames of a trusted peer are not walked, which would take longer than decoding
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgpack

from whisperd.rpc.errors import WhisperdError

__all__ = ["TRUSTED_LIMITS", "FrameLimits", "FrameReader"]

# The first bytes of arrays and maps in the MessagePack specification.
_FIXMAP, _FIXARRAY = range(0x80, 0x90), range(0x90, 0xA0)
_ARRAYS = frozenset({*_FIXARRAY, 0xDC, 0xDD})
_MAPS = frozenset({*_FIXMAP, 0xDE, 0xDF})


class FrameLimits(NamedTuple):
    """Limits of one frame: bytes, nesting of arrays and maps, and values in all.

    Without a limit on values, the nesting is not limited either, except by the decoder.
    """

    max_frame_bytes: int = 4 * 1024 * 1024
    max_depth: int = 16
    max_items: int | None = 20_000


TRUSTED_LIMITS = FrameLimits(max_frame_bytes=256 * 2**20, max_items=None)
"""For what the daemon sends to its clients and children, such as the transcript of a day. The limit on bytes
only catches a corrupt stream, or a socket that belongs to another program."""


class FrameReader:
    """Turns received bytes into whole frames.

    If `feed` raises `WhisperdError` (`rpc.frame_too_large`, `rpc.frame_too_deep`, `rpc.frame_malformed`),
    close the connection: the beginning of the next frame is unknown.
    """

    def __init__(self, limits: FrameLimits | None = None) -> None:
        self._limits = limits or FrameLimits()
        self._unpacker = msgpack.Unpacker(max_buffer_size=self._limits.max_frame_bytes)
        self._pending = bytearray()
        self._pending_offset = 0  # where `_pending` begins in the whole stream

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the bytes that arrived; yield each complete frame, as raw bytes."""
        # In pieces that fit after the beginning of a frame, so that the limit applies to a frame and not to
        # how much the kernel happened to deliver at once.
        view = memoryview(data)
        while view:
            room = self._limits.max_frame_bytes - len(self._pending)
            if room <= 0:
                raise frame_error(
                    "rpc.frame_too_large", f"A message is larger than {self._limits.max_frame_bytes:,} bytes"
                )
            piece, view = view[:room], view[room:]
            self._unpacker.feed(piece)
            self._pending += piece
            while frame := self._next_frame():
                yield frame

    def _next_frame(self) -> bytes | None:
        if not self._pending:
            return None
        try:
            self._unpacker.skip()  # resumes where it stopped when the rest of a frame has arrived
        except msgpack.OutOfData:
            return None
        except msgpack.StackError as error:
            raise frame_error("rpc.frame_too_deep", "A message is nested too deeply") from error
        except msgpack.UnpackException as error:
            raise frame_error("rpc.frame_malformed", "The bytes received are not MessagePack") from error
        length = self._unpacker.tell() - self._pending_offset
        frame = bytes(self._pending[:length])
        del self._pending[:length]
        self._pending_offset += length
        self._check_shape(frame)
        return frame

    def _check_shape(self, frame: bytes) -> None:
        if frame[0] not in _ARRAYS:
            raise frame_error("rpc.frame_malformed", "A message is not a MessagePack-RPC array")
        if self._limits.max_items is None:
            return
        walker = msgpack.Unpacker(max_buffer_size=len(frame))
        walker.feed(frame)
        remaining = [1]  # values still to come, one entry per open array or map
        items = 0
        while remaining:
            if remaining[-1] == 0:
                remaining.pop()
                continue
            remaining[-1] -= 1
            items += 1
            first = frame[walker.tell()]
            if first in _ARRAYS:
                remaining.append(walker.read_array_header())
            elif first in _MAPS:
                remaining.append(2 * walker.read_map_header())
            else:
                walker.skip()
            if len(remaining) > self._limits.max_depth + 1:
                raise frame_error(
                    "rpc.frame_too_deep", f"A message is nested deeper than {self._limits.max_depth} levels"
                )
            if items > self._limits.max_items:
                raise frame_error(
                    "rpc.frame_too_large", f"A message contains more than {self._limits.max_items:,} values"
                )


def frame_error(code: str, message: str) -> WhisperdError:
    """Return an error after which no more can be read from the stream."""
    return WhisperdError(
        code,
        f"{message}.",
        "Send MessagePack-RPC as docs/interface.md describes, and large inputs with `uploads.*`.",
    )
