"""`watch.*`: folders whose recordings are transcribed automatically."""

from __future__ import annotations

import os
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from whisperd.daemon.service import Call
from whisperd.rpc.errors import sendable
from whisperd.rpc.messages import Edit, Named, NoParams, invalid_params
from whisperd.watch import WatchChanges, WatchPreset

Map = dict[str, Any]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]


class AddParams(WatchChanges, frozen=True):
    """Which folder, as a string or as bytes, and what to do with its files."""

    path: Path | None = None
    path_bytes: bytes | None = None


class RetryParams(Named, frozen=True):
    """Which watch, and which of its files: by default all that failed; with `all`, also those done."""

    paths: Annotated[tuple[Path, ...], Meta(max_length=10_000)] | None = None
    all: bool = False

    def __post_init__(self) -> None:
        if self.all and self.paths is not None:
            raise ValueError("paths and all cannot be combined")


class LogParams(Named, frozen=True):
    """Which watch, and how many lines at most."""

    limit: Annotated[int, Meta(ge=1, le=5000)] = 100


async def add(call: Call, params: AddParams) -> Map:
    """Watch a folder; respond once that is saved."""
    if (params.path is None) == (params.path_bytes is None):
        raise invalid_params("name either path or path_bytes")
    path = os.fsdecode(params.path_bytes) if params.path_bytes is not None else params.path or ""
    fields = {name: getattr(params, name) for name in WatchChanges.__struct_fields__}
    return await _view(call, await call.service.watches.add(path, WatchChanges(**fields)))


async def list_(call: Call, params: NoParams) -> list[Map]:
    """Return every watch, the oldest first."""
    return [_sendable(view) for view in await call.service.watches.views()]


async def show(call: Call, params: Named) -> Map:
    """Return one watch."""
    return _sendable(await call.service.watches.view(params.name))


async def edit(call: Call, params: Edit[WatchChanges]) -> Map:
    """Edit a watch."""
    return await _view(call, await call.service.watches.edit(params.name, params.changes, params.version))


async def remove(call: Call, params: Named) -> Map:
    """Stop watching a folder."""
    preset = await call.service.watches.remove(params.name)
    return {"id": preset.id, "path": sendable(preset.path)}


async def pause(call: Call, params: Named) -> Map:
    """Pause a watch: start no more of its files."""
    return await _view(call, await call.service.watches.set_paused(params.name, paused=True))


async def resume(call: Call, params: Named) -> Map:
    """Resume a paused watch."""
    return await _view(call, await call.service.watches.set_paused(params.name, paused=False))


async def retry(call: Call, params: RetryParams) -> Map:
    """Retry failed files, or transcribe the given ones again."""
    return {"retried": await call.service.watches.retry(params.name, params.paths, all=params.all)}


async def log(call: Call, params: LogParams) -> list[Map]:
    """Return the log of a watch, the oldest entry first."""
    return list(sendable(await call.service.watches.log(params.name, params.limit)))


async def scan(call: Call, params: Named) -> Map:
    """Scan the whole folder now, and wait until that is done."""
    return await _view(call, await call.service.watches.scan(params.name))


async def _view(call: Call, preset: WatchPreset) -> Map:
    return _sendable(await call.service.watches.view(preset.id))


def _sendable(view: Map) -> Map:
    return dict(sendable(msgspec.to_builtins(view)))
