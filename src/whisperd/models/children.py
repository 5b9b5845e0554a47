"""Run the child processes that fetch and convert models: one request each, answered by a stream of lines."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import BinaryIO

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from whisperd.child import last_words, open_child, python_command

__all__ = ["Child", "ask_child"]

_MAX_LINE_BYTES = 1 << 20


class Child:
    """A running child process."""

    def __init__(self, lines: BufferedByteReceiveStream, stderr: BinaryIO) -> None:
        self._lines = lines
        self._stderr = stderr

    async def next_line(self) -> bytes | None:
        """Return its next line, a message of `whisperd.models.messages`; None when it has ended."""
        try:
            return await self._lines.receive_until(b"\n", _MAX_LINE_BYTES)
        except (anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.EndOfStream):
            return None

    def last_words(self) -> str:
        """Return the end of its standard error, which says why there is no result."""
        return last_words(self._stderr)


@asynccontextmanager
async def ask_child(
    module: str, request: msgspec.Struct, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """Run a module of this room with a request. The process is killed when the block exits."""
    command = python_command("whisperd.child", module, msgspec.json.encode(request).decode())
    # A file instead of a pipe, because a child that writes a lot would fill a pipe and block.
    with tempfile.TemporaryFile() as stderr:
        async with open_child(command, env=environment, stderr=stderr.fileno()) as process:
            assert process.stdout is not None
            yield Child(BufferedByteReceiveStream(process.stdout), stderr)
