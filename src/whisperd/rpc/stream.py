"""A client's connection as an anyio stream."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

from anyio.abc import ByteStream, SocketAttribute, UNIXSocketStream

from whisperd.rpc.transport import Connected

__all__ = ["hang_up", "open_stream"]


async def open_stream(connected: Connected, path: str) -> ByteStream:
    """Turn a new connection to a path into an anyio stream."""
    if sys.platform == "win32":
        from whisperd.rpc.pipe_stream import connect_stream

        connected.close()  # it is blocking, which cannot be changed
        return await connect_stream(path)
    assert isinstance(connected, socket.socket)
    return await UNIXSocketStream.from_socket(connected)


async def hang_up(stream: ByteStream) -> None:
    """Close a connection that is in use: its senders and receivers see it as closed by the other side."""
    if isinstance(stream, UNIXSocketStream):
        with suppress(OSError):  # the other side closed it first
            raw_socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's `extra`
            raw_socket.shutdown(socket.SHUT_RDWR)
    else:
        await stream.aclose()
