"""A client's connection, for tasks."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

from anyio.abc import ByteStream, SocketAttribute, UNIXSocketStream

from whisperd.rpc.transport import Connected

__all__ = ["hang_up", "open_stream"]


async def open_stream(connected: Connected, path: str) -> ByteStream:
    """Turn what was just connected to a path into a stream of anyio."""
    if sys.platform == "win32":
        from whisperd.rpc.pipe_stream import connect_stream

        connected.close()  # it blocks, and cannot be made not to
        return await connect_stream(path)
    assert isinstance(connected, socket.socket)
    return await UNIXSocketStream.from_socket(connected)


async def hang_up(stream: ByteStream) -> None:
    """End a connection that is in use: who sends or receives on it finds that the other side is gone."""
    if isinstance(stream, UNIXSocketStream):
        with suppress(OSError):  # the other side was quicker
            raw_socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's `extra`
            raw_socket.shutdown(socket.SHUT_RDWR)
    else:
        await stream.aclose()
