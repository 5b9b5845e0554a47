"""`session.*`: what a client says of itself first."""

from __future__ import annotations

from typing import Any

from whisperd._version import __version__
from whisperd.daemon.call import Call
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Params

__all__ = ["METHODS"]

PROTOCOL = 1


class HelloParams(Params, frozen=True):
    """Who the client is and what it speaks."""

    client: str
    version: str
    protocol: int


async def hello(call: Call, params: HelloParams) -> dict[str, Any]:
    """Agree on a protocol. Raises `protocol.unsupported`."""
    if params.protocol != PROTOCOL:
        older = "client" if params.protocol < PROTOCOL else "daemon"
        raise WhisperdError(
            "protocol.unsupported",
            f"The client speaks protocol {params.protocol}, this daemon {PROTOCOL}.",
            f"Upgrade the {older}, then `whisperctl daemon restart`.",
            {"protocol": PROTOCOL},
        )
    return {"server": "whisperd", "version": __version__, "protocol": PROTOCOL}


METHODS = {"hello": hello}
