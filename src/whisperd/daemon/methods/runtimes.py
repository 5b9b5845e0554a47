"""`runtimes.*`: the saved runtimes, and which of them are loaded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import UNSET

from whisperd.daemon.service import Call
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Edit, Named, NoParams
from whisperd.runtimes import Runtime, RuntimeChanges, RuntimeManager, RuntimeView

Map = dict[str, Any]


class CreateParams(RuntimeChanges, frozen=True, kw_only=True):
    """The fields of a new runtime; missing ones are taken from the settings."""

    default: bool = False


async def list_(call: Call, params: NoParams) -> list[RuntimeView]:
    """Return every saved runtime, and the current ones that were made for a single job."""
    return [call.service.view_runtime(runtime) for runtime in call.service.runtimes.all()]


async def show(call: Call, params: Named) -> Map:
    """Return one runtime, with its history."""
    runtime = call.service.runtimes.find(params.name)
    history = list(runtime.history)
    return await _with_warnings(call, runtime) | {"history": history}


async def create(call: Call, params: CreateParams) -> Map:
    """Create a runtime. If no model is named, use the one that suits this computer best."""
    fields = {name: getattr(params, name) for name in RuntimeChanges.__struct_fields__}
    if params.model is UNSET:
        fields["model"] = await call.service.advisor.suitable()
    runtime = await call.service.runtimes.create(RuntimeChanges(**fields), make_default=params.default)
    return await _with_warnings(call, runtime)


async def edit(call: Call, params: Edit[RuntimeChanges]) -> Map:
    """Edit a runtime."""
    runtime = call.service.runtimes.find(params.name)
    await call.service.runtimes.edit(runtime, params.changes, params.version)
    return await _with_warnings(call, runtime)


async def delete(call: Call, params: Named) -> Map:
    """Unload and delete a runtime."""
    runtime = call.service.runtimes.find(params.name)
    await call.service.runtimes.delete(runtime)
    return {"id": runtime.id, "name": runtime.name}


Action = Callable[[RuntimeManager, Runtime], Awaitable[None]]


def _action(act: Action) -> Callable[[Call, Named], Awaitable[RuntimeView]]:
    """Return a method that performs an action on a runtime and returns its new state."""

    async def handler(call: Call, params: Named) -> RuntimeView:
        runtime = call.service.runtimes.find(params.name)
        shown = call.service.view_runtime(runtime)
        await act(call.service.runtimes, runtime)
        # One that was made for a single job may have been deleted.
        still_exists = runtime in call.service.runtimes.all()
        return call.service.view_runtime(runtime) if still_exists else _unloaded(shown)

    return handler


def _preparing(act: Action) -> Callable[[Call, Named], Awaitable[Map]]:
    """The same for actions that may download: also returns warnings about the runtime."""
    action = _action(act)

    async def handler(call: Call, params: Named) -> Map:
        warnings = await _warnings(call, call.service.runtimes.find(params.name))
        return {**msgspec.structs.asdict(await action(call, params)), "warnings": warnings}

    return handler


prepare = _preparing(RuntimeManager.prepare)
load = _preparing(RuntimeManager.load)
cancel = _action(RuntimeManager.cancel)
unload = _action(RuntimeManager.unload)
default = _action(RuntimeManager.make_default)
enable = _action(RuntimeManager.enable)
disable = _action(RuntimeManager.disable)


async def _with_warnings(call: Call, runtime: Runtime) -> Map:
    """Describe a runtime, as of the time of the call: it may be deleted while the rest is looked up."""
    shown = msgspec.structs.asdict(call.service.view_runtime(runtime))
    more = {"warnings": await _warnings(call, runtime), "to_download": await _to_download(call, runtime)}
    return shown | more


async def _warnings(call: Call, runtime: Runtime) -> list[Map]:
    """Return the warnings about a runtime on this computer."""
    preset = runtime.preset
    found = await call.service.advisor.warnings(
        preset.model,
        device=preset.wanted_device,
        device_index=preset.device_index,
        compute_type=preset.compute_type,
    )
    return [warning.to_wire() for warning in found]


async def _to_download(call: Call, runtime: Runtime) -> Map | None:
    """Return the model that a runtime must download, and its size if known; None if it is installed."""
    try:
        model = await call.service.models.describe(runtime.preset.model)
    except WhisperdError:  # a folder or file that was deleted meanwhile
        return None
    return None if model.installed else {"model": model.name, "size": model.size}


def _unloaded(shown: RuntimeView) -> RuntimeView:
    return msgspec.structs.replace(shown, status="unloaded", loaded=None, memory=None, pid=None)
