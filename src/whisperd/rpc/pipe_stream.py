"""Either end of a named pipe, for tasks.

Imported on Windows alone. It cannot be tried elsewhere: it is exercised by CI on Windows.
"""
# ruff: noqa: E402 - what follows the assertion exists on Windows alone

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
    """Either end of a pipe, for tasks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What has come. Raises what streams of anyio raise."""
        try:
            data = await self._reader.read(max_bytes)
        except OSError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send it all. Raises what streams of anyio raise."""
        try:
            self._writer.write(item)
            await self._writer.drain()
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Pipes are closed at both ends or at none."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Hang up."""
        self._writer.close()
        await checkpoint()


async def connect_stream(path: str) -> PipeStream:
    """A client's end for tasks. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ProactorEventLoop)
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.create_pipe_connection(lambda: protocol, path)
    return PipeStream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
