"""The wire methods. The method `noun.verb` is the coroutine function `verb` of the module `noun`: each
coroutine function is a method, unless its name begins with an underscore. A trailing underscore is removed
(`list_`).

A handler takes the call and its parameters, and returns the result to encode or raises `WhisperdError`. The
parameters are strictly decoded into the type of its second argument.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import typing
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from whisperd.daemon.service import Call
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Request, decode_params

__all__ = ["METHODS", "dispatch"]

Handler = Callable[[Call, Any], Awaitable[Any]]

METHODS: dict[str, Handler] = {
    f"{noun}.{name.rstrip('_')}": handler
    for _, noun, _ in pkgutil.iter_modules(__path__)
    for module in [import_module(f"{__name__}.{noun}")]
    for name, handler in vars(module).items()
    if inspect.iscoroutinefunction(handler) and handler.__module__ == module.__name__ and name[0] != "_"
}
"""Every method, by its name on the wire."""

_PARAMS = {name: typing.get_type_hints(handler)["params"] for name, handler in METHODS.items()}


async def dispatch(call: Call, request: Request) -> Any:
    """Run the method of a request and return its result. Raises `WhisperdError`."""
    handler = METHODS.get(request.method)
    if handler is None:
        called = request.method[:80]  # the time to compare grows with its length
        near = difflib.get_close_matches(called, METHODS, 1)
        raise WhisperdError(
            "rpc.unknown_method",
            f"There is no method {called!r}.",
            f"Did you mean {near[0]}?" if near else "See docs/interface.md for the methods.",
        )
    return await handler(call, decode_params(request.params, _PARAMS[request.method]))
