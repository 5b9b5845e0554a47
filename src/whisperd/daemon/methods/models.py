"""`models.*`: the model store."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from whisperd.daemon.service import Call
from whisperd.jobs.options import coded_language
from whisperd.models import ModelSummary
from whisperd.models.recommend import Recommendation
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Name, Named, NoParams, Params


class RecommendParams(Params, frozen=True):
    """The language to recognise, by its code or English name; by default any."""

    language: Annotated[str, Meta(max_length=100)] | None = None


class ImportParams(Params, frozen=True):
    """A folder or file with a model, and its name in the store: by default its own."""

    path: Name
    name: Name | None = None


async def list_(call: Call, params: NoParams) -> tuple[ModelSummary, ...]:
    """Return the installed models."""
    return await call.service.models.list()


async def available(call: Call, params: NoParams) -> tuple[ModelSummary, ...]:
    """Return the catalogue, with which of its models are installed."""
    return await call.service.models.available()


async def recommend(call: Call, params: RecommendParams) -> tuple[Recommendation, ...]:
    """Return the models for a language, the best one for this computer first. Raises `language.unknown`."""
    named = (params.language or "auto").strip().lower()
    return await call.service.advisor.recommend(None if named == "auto" else coded_language(named))


async def show(call: Call, params: Named) -> dict[str, Any]:
    """Return one model, installed or not, with warnings for this computer."""
    model = await call.service.models.describe(params.name)
    return {**msgspec.structs.asdict(model), "warnings": await _warnings(call, params.name)}


async def pull(call: Call, params: Named) -> dict[str, Any]:
    """Download a model unless it is installed; publish progress on the topic `models`."""
    warnings = await _warnings(call, params.name)  # an installed model has none
    installed = await call.service.models.pull(params.name, call.service.on_model_progress)
    return {**msgspec.structs.asdict(installed), "warnings": warnings}


async def verify(call: Call, params: Named) -> dict[str, Any]:
    """Compare every file of a model with its hash; publish progress on the topic `models`."""
    try:
        await call.service.models.verify(params.name, call.service.on_model_progress)
    except WhisperdError as error:
        if error.code != "model.damaged":
            raise
        return {"name": params.name, "ok": False, "damaged": error.data["files"], "fix": error.fix}
    return {"name": params.name, "ok": True, "damaged": [], "fix": None}


async def remove(call: Call, params: Named) -> dict[str, Any]:
    """Delete a model from the store, unless it is loaded."""
    call.service.runtimes.check_unused(call.service.models.canonical_name(params.name))
    freed_bytes = await call.service.models.remove(params.name)
    return {"name": params.name, "freed": freed_bytes}


async def path(call: Call, params: Named) -> dict[str, Any]:
    """Return the path of an installed model."""
    return {"path": str(await call.service.models.path(params.name))}


async def import_(call: Call, params: ImportParams) -> dict[str, Any]:
    """Copy a model from a folder or file into the store; return it, with warnings for this computer."""
    service = call.service
    imported = await service.models.import_model(params.path, params.name, service.on_model_progress)
    warnings = await service.advisor.warnings_of_imported(imported)
    return {**msgspec.structs.asdict(imported), "warnings": [warning.to_wire() for warning in warnings]}


async def _warnings(call: Call, model: str) -> list[dict[str, Any]]:
    """Return the warnings about downloading a model."""
    return [warning.to_wire() for warning in await call.service.advisor.warnings(model)]
