"""The methods of the wire. The method `noun.verb` is the function `verb` of the module `noun`.

A handler takes the call and its parameters, and returns what is encoded as the result or raises
`WhisperdError`. The type of its second argument is what its parameters are strictly decoded into.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Awaitable, Callable
from typing import Any

from whisperd.daemon.call import Call
from whisperd.daemon.methods import calibration as calibration
from whisperd.daemon.methods import daemon, events, jobs, session, uploads
from whisperd.daemon.methods import doctor as doctor
from whisperd.daemon.methods import hardware as hardware
from whisperd.daemon.methods import models as models
from whisperd.daemon.methods import natives as natives
from whisperd.daemon.methods import profiles as profiles
from whisperd.daemon.methods import runtimes as runtimes
from whisperd.daemon.methods import transcripts as transcripts
from whisperd.daemon.methods import watch as watch
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Request, decode_params

__all__ = ["METHODS", "dispatch"]

Handler = Callable[[Call, Any], Awaitable[Any]]

METHODS: dict[str, Handler] = {
    f"{module.__name__.rpartition('.')[2]}.{name}": handler
    for module in (
        calibration,
        daemon,
        doctor,
        events,
        hardware,
        jobs,
        models,
        natives,
        profiles,
        runtimes,
        session,
        transcripts,
        uploads,
        watch,
    )
    for name, handler in module.METHODS.items()
}
"""Every method by its name on the wire."""

_PARAMS = {name: typing.get_type_hints(handler)["params"] for name, handler in METHODS.items()}


async def dispatch(call: Call, request: Request) -> Any:
    """Answer a request. Raises `WhisperdError`."""
    handler = METHODS.get(request.method)
    if handler is None:
        called = request.method[:80]  # comparing takes time that grows with its length
        near = difflib.get_close_matches(called, METHODS, 1)
        raise WhisperdError(
            "rpc.unknown_method",
            f"There is no method {called!r}.",
            f"Did you mean {near[0]}?" if near else "See docs/interface.md for the methods.",
        )
    return await handler(call, decode_params(request.params, _PARAMS[request.method]))
