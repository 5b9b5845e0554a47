"""`profiles.*`: named sets of job options."""

from __future__ import annotations

from typing import Any

from whisperd.daemon.service import Call
from whisperd.rpc.messages import Edit, Named, NoParams
from whisperd.runtimes.profile_manager import ProfileChanges

Map = dict[str, Any]


async def list_(call: Call, params: NoParams) -> list[Map]:
    """Return every profile, sorted by name."""
    return [call.service.profiles.view(profile) for profile in call.service.profiles.all()]


async def show(call: Call, params: Named) -> Map:
    """Return one profile."""
    return call.service.profiles.view(call.service.profiles.find(params.name))


async def create(call: Call, params: ProfileChanges) -> Map:
    """Create a profile."""
    return call.service.profiles.view(await call.service.profiles.create(params))


async def edit(call: Call, params: Edit[ProfileChanges]) -> Map:
    """Edit a profile."""
    profile = await call.service.profiles.edit(params.name, params.changes, params.version)
    return call.service.profiles.view(profile)


async def delete(call: Call, params: Named) -> Map:
    """Delete a profile."""
    return {"name": (await call.service.profiles.delete(params.name)).name}
