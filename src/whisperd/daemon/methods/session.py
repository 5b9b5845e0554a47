"""`session.*`: what a client says of itself first."""

from __future__ import annotations

from typing import Any, Literal

from whisperd._version import PROTOCOL, __version__
from whisperd.daemon.service import Call
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import NoParams, Params


class HelloParams(Params, frozen=True):
    """Who the client is and what it speaks."""

    client: str
    version: str
    protocol: int
    profile: str | None = None
    """What the client's jobs have where they say nothing themselves."""
    errors: Literal["map", "text"] = "map"
    """What it takes an error for."""


async def hello(call: Call, params: HelloParams) -> dict[str, Any]:
    """Agree on a protocol, and on a profile. Raises `protocol.unsupported`, `profile.unknown`."""
    call.connection.takes_texts_as_errors = params.errors == "text"
    if params.protocol != PROTOCOL:
        older = "client" if params.protocol < PROTOCOL else "daemon"
        raise WhisperdError(
            "protocol.unsupported",
            f"The client speaks protocol {params.protocol}, this daemon {PROTOCOL}.",
            f"Upgrade the {older}, then `whisperctl daemon restart`.",
            {"protocol": PROTOCOL},
        )
    if params.profile is not None:
        call.service.profiles.find(params.profile)
    call.connection.profile = params.profile
    return {"server": "whisperd", "version": __version__, "protocol": PROTOCOL}


async def ping(call: Call, params: NoParams) -> dict[str, Any]:
    """Say that the daemon is there: while it works for long, a client may want to know."""
    return {}
