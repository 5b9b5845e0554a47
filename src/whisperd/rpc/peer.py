"""The calling end of a MessagePack-RPC connection, used by the asynchronous client, and by the daemon to call
its worker and decoder processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, ByteSendStream

from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.framing import FrameLimits, FrameReader
from whisperd.rpc.messages import (
    Notification,
    Request,
    Response,
    decode_message,
    encode_request,
)
from whisperd.tasks import open_task_group

__all__ = ["Peer", "PeerClosed", "open_peer"]

READ_BYTES = 256 * 1024

OnNotification = Callable[[str, list[Any]], Awaitable[None]]
"""Called with method and parameters. Nothing more is read until it returns, so that a slow consumer slows
down the other side."""


class PeerClosed(Exception):
    """The other side closed the connection before it responded."""


class _Call:
    """A request that waits for its response."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.response: Response | None = None


class Peer:
    """Sends requests, and receives responses and notifications. Create one with `open_peer`."""

    def __init__(
        self,
        send: ByteSendStream,
        receive: ByteReceiveStream,
        on_notification: OnNotification | None,
        limits: FrameLimits,
    ) -> None:
        self._send = send
        self._receive = receive
        self._on_notification = on_notification
        self._reader = FrameReader(limits)
        self._write_lock = anyio.Lock()
        self._calls: dict[int, _Call] = {}
        self._next_id = 0
        self.heard = 0
        """How many times data has arrived from the other side."""
        self.closed = anyio.Event()
        """Set as soon as the other side has closed the connection."""
        self._reading = anyio.CancelScope()

    async def request(self, method: str, params: object = None) -> Any:
        """Send a request and wait for the response.

        Raises the `WhisperdError` that the other side responded with, or `PeerClosed` if it disconnected.
        """
        if self.closed.is_set():
            raise PeerClosed(method)
        message_id, call = self._next_id, _Call()
        self._next_id = (self._next_id + 1) % 2**32
        self._calls[message_id] = call
        try:
            await self._write(encode_request(message_id, method, params))
            await call.done.wait()
        finally:
            self._calls.pop(message_id, None)
        if call.response is None:
            raise PeerClosed(method)
        return call.response.unwrap()

    @property
    def is_awaited(self) -> bool:
        """Whether a request waits for its response."""
        return bool(self._calls)

    async def _write(self, data: bytes) -> None:
        # A partial message would corrupt everything after it on the stream. asyncio's own `Task.cancel`
        # ignores shields, so a task that only we can cancel sends it.
        async with self._write_lock, open_task_group() as tasks:
            tasks.start_soon(self._send_whole, data)

    async def _send_whole(self, data: bytes) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._send.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                raise PeerClosed from error

    def give_up(self) -> None:
        """Expect nothing more: waiting requests raise `PeerClosed`."""
        self._reading.cancel()

    async def run(self) -> None:
        """Read until the other side disconnects, then wake all waiting requests."""
        try:
            with self._reading:
                while True:
                    data = await self._receive.receive(READ_BYTES)
                    self.heard += 1
                    for frame in self._reader.feed(data):
                        await self._dispatch(decode_message(frame))
        except (
            anyio.EndOfStream,
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
            OSError,
            WhisperdError,
            ValueError,  # a frame that msgspec cannot decode
            RecursionError,  # or that is nested too deeply for it
        ):
            pass  # disconnected, or the stream is unreadable, which amounts to the same
        finally:
            self.closed.set()
            for call in self._calls.values():
                call.done.set()

    async def _dispatch(self, message: Request | Response | Notification) -> None:
        match message:
            case Response() if call := self._calls.get(message.id):
                call.response = message
                call.done.set()
            case Notification() if self._on_notification is not None:
                await self._on_notification(message.method, msgspec.msgpack.decode(message.params))
            case _:
                pass  # the response to an abandoned call, or a message that is not for us


@asynccontextmanager
async def open_peer(
    send: ByteSendStream,
    receive: ByteReceiveStream,
    on_notification: OnNotification | None = None,
    limits: FrameLimits | None = None,
) -> AsyncIterator[Peer]:
    """Create a peer, and run its reading task during the block."""
    peer = Peer(send, receive, on_notification, limits or FrameLimits())
    async with open_task_group() as tasks:
        tasks.start_soon(peer.run)
        try:
            yield peer
        finally:
            tasks.cancel_scope.cancel()
