"""`runtimes.*`: the presets and what is loaded of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from whisperd.daemon.call import Call
from whisperd.rpc.messages import Name, NoParams, Params
from whisperd.runtimes import Runtime, RuntimeChanges, RuntimeManager, RuntimeView

__all__ = ["METHODS"]


class RuntimeParams(Params, frozen=True):
    """Which runtime: its name or its id."""

    name: Name


class CreateParams(RuntimeChanges, frozen=True, kw_only=True):
    """The fields of a new runtime; what is not named is as in the settings."""

    default: bool = False


class EditParams(Params, frozen=True):
    """Which runtime, what of it, and the version that the change was made from."""

    name: Name
    changes: RuntimeChanges
    version: int | None = None


async def list_(call: Call, params: NoParams) -> list[RuntimeView]:
    """Every saved runtime, and those made for once that are there."""
    return [call.service.view_runtime(runtime) for runtime in call.service.runtimes.all()]


async def show(call: Call, params: RuntimeParams) -> dict[str, Any]:
    """One runtime, with its history."""
    runtime = call.service.runtimes.find(params.name)
    shown = msgspec.structs.asdict(call.service.view_runtime(runtime))
    return shown | {"history": list(runtime.history)}


async def create(call: Call, params: CreateParams) -> RuntimeView:
    """Save a new one."""
    fields = {name: getattr(params, name) for name in RuntimeChanges.__struct_fields__}
    runtime = await call.service.runtimes.create(RuntimeChanges(**fields), make_default=params.default)
    return call.service.view_runtime(runtime)


async def edit(call: Call, params: EditParams) -> RuntimeView:
    """Change one."""
    runtime = call.service.runtimes.find(params.name)
    await call.service.runtimes.edit(runtime, params.changes, params.version)
    return call.service.view_runtime(runtime)


async def delete(call: Call, params: RuntimeParams) -> dict[str, Any]:
    """Unload one and forget it."""
    runtime = call.service.runtimes.find(params.name)
    await call.service.runtimes.delete(runtime)
    return {"id": runtime.id, "name": runtime.name}


Action = Callable[[RuntimeManager, Runtime], Awaitable[None]]


def _action(act: Action) -> Callable[[Call, RuntimeParams], Awaitable[RuntimeView]]:
    """A method that does one thing with a runtime and answers how it is then."""

    async def handler(call: Call, params: RuntimeParams) -> RuntimeView:
        runtime = call.service.runtimes.find(params.name)
        shown = call.service.view_runtime(runtime)
        await act(call.service.runtimes, runtime)
        # One that was made for once may be there no more.
        is_there = runtime in call.service.runtimes.all()
        return call.service.view_runtime(runtime) if is_there else _gone(shown)

    return handler


def _gone(shown: RuntimeView) -> RuntimeView:
    return msgspec.structs.replace(shown, status="unloaded", loaded=None, memory=None, pid=None)


METHODS = {
    "list": list_,
    "show": show,
    "create": create,
    "edit": edit,
    "delete": delete,
    "prepare": _action(RuntimeManager.prepare),
    "load": _action(RuntimeManager.load),
    "cancel": _action(RuntimeManager.cancel),
    "unload": _action(RuntimeManager.unload),
    "default": _action(RuntimeManager.make_default),
    "enable": _action(RuntimeManager.enable),
    "disable": _action(RuntimeManager.disable),
}
