"""Either end of a named pipe as an anyio stream.

Imported on Windows only, so it is tested only by CI on Windows.
"""
# ruff: noqa: E402 - the imports after the assertion exist on Windows only

from __future__ import annotations

import sys

assert sys.platform == "win32"

import asyncio
from asyncio.windows_events import ProactorEventLoop

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

__all__ = ["PipeStream", "connect_stream"]


class PipeStream(ByteStream):
    """Either end of a pipe, as an anyio stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the data that has arrived. Raises the same errors as anyio's streams."""
        try:
            data = await self._reader.read(max_bytes)
        except OSError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of the data. Raises the same errors as anyio's streams."""
        try:
            self._writer.write(item)
            await self._writer.drain()
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Not supported: a pipe cannot be half-closed."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the connection."""
        self._writer.close()
        await checkpoint()


async def connect_stream(path: str) -> PipeStream:
    """Connect to a pipe as a client. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ProactorEventLoop)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.create_pipe_connection(lambda: protocol, path)
    return PipeStream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
