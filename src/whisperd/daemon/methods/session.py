"""`session.*`: how a client introduces itself, and checks that the daemon is alive."""

from __future__ import annotations

from typing import Any, Literal

from whisperd._version import PROTOCOL, __version__
from whisperd.daemon.service import Call
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import NoParams, Params


class HelloParams(Params, frozen=True):
    """The client, its version and its protocol."""

    client: str
    version: str
    protocol: int
    profile: str | None = None
    """The profile of the client's jobs that name none."""
    errors: Literal["map", "text"] = "map"
    """In which form it expects errors."""


async def hello(call: Call, params: HelloParams) -> dict[str, Any]:
    """Agree on a protocol, and on a profile. Raises `protocol.unsupported`, `profile.unknown`."""
    call.connection.wants_text_errors = params.errors == "text"
    if params.protocol != PROTOCOL:
        older = "client" if params.protocol < PROTOCOL else "daemon"
        raise WhisperdError(
            "protocol.unsupported",
            f"The client speaks protocol {params.protocol}, but this daemon speaks {PROTOCOL}.",
            f"Upgrade the {older}, then run `whisperctl daemon restart`.",
            {"protocol": PROTOCOL},
        )
    if params.profile is not None:
        call.service.profiles.find(params.profile)
    call.connection.profile = params.profile
    return {"server": "whisperd", "version": __version__, "protocol": PROTOCOL}


async def ping(call: Call, params: NoParams) -> dict[str, Any]:
    """Respond at once, so that a client can check during long work that the daemon is alive."""
    return {}
