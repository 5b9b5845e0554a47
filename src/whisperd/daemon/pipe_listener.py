r"""The named pipe that the daemon listens on under Windows: `\\.\pipe\whisperd-USER`, for that user only.

Imported on Windows only, so it is tested only by CI on Windows.
"""
# ruff: noqa: E402 - the imports after the assertion exist on Windows only

from __future__ import annotations

import sys

assert sys.platform == "win32"

import asyncio
import logging
from asyncio.windows_events import ProactorEventLoop
from asyncio.windows_utils import PipeHandle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.pipe import is_listened_on
from whisperd.rpc.pipe_stream import PipeStream
from whisperd.running import already_running
from whisperd.win32 import create_pipe

if TYPE_CHECKING:
    from whisperd.daemon.listener import Handle

__all__ = ["claim_pipe"]

log = logging.getLogger(__name__)

ENDING_TIMEOUT_S = 30.0
"""A daemon that is shutting down no longer listens, but runs until its last client has disconnected."""
POLL_S = 0.05


class PipeListener:
    """A listening pipe. Create it with `claim_pipe`."""

    def __init__(self, path: str, first: PipeHandle) -> None:
        self._path = path
        self._next: PipeHandle = first
        self._accepting = anyio.CancelScope()

    async def serve(self, handle: Handle) -> None:
        """See `whisperd.daemon.listener.Listener`."""
        async with anyio.create_task_group() as tasks:
            with self._accepting:
                while True:
                    tasks.start_soon(handle, await self._accept())

    async def close(self) -> None:
        """See `whisperd.daemon.listener.Listener`."""
        self._accepting.cancel()
        self._next.close()

    def unlink(self) -> None:
        """Do nothing: the system removes a pipe when its process ends."""

    def is_reachable(self) -> bool:
        """See `whisperd.daemon.listener.Listener`: nobody can remove a pipe while its process runs."""
        return True

    async def _accept(self) -> PipeStream:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProactorEventLoop)
        while True:
            try:
                # asyncio can serve pipes, but not with our own access control list: so we use its two
                # building blocks, which are private.
                await loop._proactor.accept_pipe(self._next)  # type: ignore[attr-defined]
            except OSError as error:  # it disconnected before it was accepted
                log.info("cannot accept a client: %s", error)
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

    The system creates a pipe's first instance only once, and removes it when its process ends: so no lock is
    needed, and nothing is left behind. Raises `WhisperdError` (`daemon.already_running`,
    `socket.not_writable`).
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
                except PermissionError:  # a pipe of that name exists
                    if is_listened_on(path):
                        break
                await anyio.sleep(POLL_S)
    except OSError as error:
        raise WhisperdError(
            "socket.not_writable",
            f"The pipe {path} cannot be created: {error.strerror or error}.",
            r"Set WHISPERD_SOCKET to a name such as \\.\pipe\NAME.",
        ) from error
    raise already_running(path)
