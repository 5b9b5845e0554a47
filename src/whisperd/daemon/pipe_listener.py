r"""The named pipe that the daemon listens on under Windows: `\\.\pipe\whisperd-USER`, for that user alone.

Imported on Windows alone. It cannot be tried elsewhere: it is exercised by CI on Windows.
"""
# ruff: noqa: E402 - what follows the assertion exists on Windows alone

from __future__ import annotations

import sys

assert sys.platform == "win32"

import asyncio
import logging
from asyncio.windows_events import ProactorEventLoop
from asyncio.windows_utils import PipeHandle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from whisperd.daemon.listener import Handle, already_running
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.pipe import is_listened_on
from whisperd.rpc.pipe_stream import PipeStream
from whisperd.win32 import create_pipe

__all__ = ["claim_pipe"]

log = logging.getLogger(__name__)

ENDING_TIMEOUT_S = 30.0
"""A daemon that is ending listens no more, and is there until its last client is gone."""
POLL_S = 0.05


class PipeListener:
    """A pipe that listens. Make it with `claim_pipe`."""

    def __init__(self, path: str, first: PipeHandle) -> None:
        self._path = path
        self._next: PipeHandle = first
        self._accepting = anyio.CancelScope()

    async def serve(self, handle: Handle) -> None:
        """As `whisperd.daemon.listener.Listener` says."""
        async with anyio.create_task_group() as tasks:
            with self._accepting:
                while True:
                    tasks.start_soon(handle, await self._accept())

    async def close(self) -> None:
        """As `whisperd.daemon.listener.Listener` says."""
        self._accepting.cancel()
        self._next.close()

    def unlink(self) -> None:
        """As `whisperd.daemon.listener.Listener` says. A pipe goes with its process."""

    async def _accept(self) -> PipeStream:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProactorEventLoop)
        while True:
            try:
                # asyncio serves pipes as well, though not with an access list of ours: so its two
                # building blocks are used, which are not public.
                await loop._proactor.accept_pipe(self._next)  # type: ignore[attr-defined]
            except OSError as error:  # gone before it was accepted
                log.info("a client was not accepted: %s", error)
                self._next.close()
                self._next = PipeHandle(create_pipe(self._path, is_first=False))
                continue
            connected, self._next = self._next, PipeHandle(create_pipe(self._path, is_first=False))
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport = loop._make_duplex_pipe_transport(connected, protocol)  # type: ignore[attr-defined]
            return PipeStream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


@asynccontextmanager
async def claim_pipe(path: str) -> AsyncIterator[PipeListener]:
    """Listen on a pipe as its only daemon, until the block ends.

    The system makes a pipe's first instance once, and takes it away when its process ends: so there
    is no lock and nothing stale. Raises `WhisperdError` (`daemon.already_running`, `socket.not_writable`).
    """
    listener = PipeListener(path, await _create_first(path))
    try:
        yield listener
    finally:
        with anyio.CancelScope(shield=True):
            await listener.close()


async def _create_first(path: str) -> PipeHandle:
    try:
        with anyio.move_on_after(ENDING_TIMEOUT_S):
            while True:
                try:
                    return PipeHandle(create_pipe(path, is_first=True))
                except PermissionError:  # a pipe of that name is there
                    if is_listened_on(path):
                        break
                await anyio.sleep(POLL_S)
    except OSError as error:
        raise WhisperdError(
            "socket.not_writable",
            f"The pipe {path} cannot be made: {error.strerror or error}.",
            r"Set WHISPERD_SOCKET to a name such as \\.\pipe\NAME.",
        ) from error
    raise already_running(path)
