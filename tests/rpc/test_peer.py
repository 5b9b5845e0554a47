"""The calling end of a connection, with a socket as the other end."""

from __future__ import annotations

import asyncio
import socket

import anyio
import msgpack
import pytest
from anyio.abc import UNIXSocketStream

from whisperd.rpc.framing import TRUSTED_LIMITS
from whisperd.rpc.peer import PeerClosed, open_peer
from whisperd_testing import LIMIT_S

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets"),
]

LARGE = b"x" * 4_000_000
"""More than a socket takes at once."""


async def test_asyncio_cancelling_a_request_half_sent_leaves_the_connection_usable() -> None:
    ours, theirs = socket.socketpair()
    async with (
        await UNIXSocketStream.from_socket(ours) as stream,
        await UNIXSocketStream.from_socket(theirs) as other,
        open_peer(stream, stream) as peer,
    ):
        unpacker = msgpack.Unpacker(max_buffer_size=2 * len(LARGE))

        async def receive() -> list[object]:
            with anyio.fail_after(LIMIT_S):
                while True:
                    for message in unpacker:
                        return list(message)
                    unpacker.feed(await other.receive())

        sending = asyncio.create_task(peer.request("append", {"data": LARGE}))
        unpacker.feed(await other.receive())
        sending.cancel()  # as `asyncio.timeout` does
        asking = asyncio.create_task(peer.request("ping"))
        assert await receive() == [0, 0, "append", [{"data": LARGE}]]
        assert await receive() == [0, 1, "ping", []]
        await other.send(msgpack.packb([1, 1, None, "pong"]))
        assert await asking == "pong"
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_a_message_nested_too_deeply_ends_the_connection() -> None:
    """Not of a daemon: of another program that listens on its socket."""
    ours, theirs = socket.socketpair()
    async with (
        await UNIXSocketStream.from_socket(ours) as stream,
        await UNIXSocketStream.from_socket(theirs) as other,
        open_peer(stream, stream, limits=TRUSTED_LIMITS) as peer,
    ):
        await other.send(b"\x93\x02\xa1m" + b"\x91" * 1000 + b"\xc0")
        await other.aclose()  # Python 3.12 and later still decode it
        with pytest.raises(PeerClosed), anyio.fail_after(LIMIT_S):
            await peer.request("ping")
