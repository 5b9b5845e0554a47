"""A client's connection, for tasks."""

from __future__ import annotations

import socket
import sys

from anyio.abc import ByteStream, UNIXSocketStream

from whisperd.rpc.transport import Connected

__all__ = ["open_stream"]


async def open_stream(connected: Connected, path: str) -> ByteStream:
    """Turn what was just connected to a path into a stream of anyio."""
    if sys.platform == "win32":
        from whisperd.rpc.pipe_stream import connect_stream

        connected.close()  # it blocks, and cannot be made not to
        return await connect_stream(path)
    assert isinstance(connected, socket.socket)
    return await UNIXSocketStream.from_socket(connected)
