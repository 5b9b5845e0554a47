"""Accepts clients, and serves each until it disconnects."""

from __future__ import annotations

import logging
from contextlib import suppress

import anyio
from anyio.abc import ByteStream

from whisperd.daemon.connection import Connection
from whisperd.daemon.listener import Listener, peer_is_owner
from whisperd.daemon.methods import dispatch
from whisperd.daemon.service import Call, Service
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Request, encode_notification

__all__ = ["serve"]

log = logging.getLogger(__name__)

REFUSAL_TIMEOUT_S = 1.0


async def serve(listener: Listener, service: Service) -> None:
    """Serve clients until cancelled, or until the listener is closed and the last client has disconnected."""

    async def handle(stream: ByteStream) -> None:
        try:
            async with stream:
                if (refusal := _refusal(stream, service)) is None:
                    await _serve_one(stream, service)
                else:
                    await _refuse(stream, refusal)
        except Exception:
            log.exception("a connection failed unexpectedly")  # without affecting others

    await listener.serve(handle)


async def _serve_one(stream: ByteStream, service: Service) -> None:
    async def answer(request: Request) -> object:
        return await dispatch(call, request)

    connection = Connection(stream, service.settings.limits, answer)
    call = Call(service, connection)
    service.connections.add(connection)
    service.idle.notice()
    try:
        await connection.serve()
    finally:
        service.client_gone(connection)


def _refusal(stream: ByteStream, service: Service) -> WhisperdError | None:
    if not peer_is_owner(stream):
        return WhisperdError(
            "daemon.not_yours",
            "This daemon serves only the user that it runs as.",
            "Use your own daemon: check --socket and the variable WHISPERD_SOCKET.",
        )
    if len(service.connections) >= service.settings.limits.max_connections:
        return WhisperdError(
            "daemon.too_many_connections",
            f"The daemon already has {len(service.connections)} connections, the most that it accepts.",
            "Close some of them, or raise `limits.max_connections` in the settings.",
        )
    return None


async def _refuse(stream: ByteStream, refusal: WhisperdError) -> None:
    log.warning("refused a client: %s", refusal.code)
    with suppress(anyio.BrokenResourceError), anyio.move_on_after(REFUSAL_TIMEOUT_S):
        await stream.send(encode_notification("error", refusal.to_wire()))
