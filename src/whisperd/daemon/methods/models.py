"""`models.*`: the model store."""

from __future__ import annotations

from typing import Any

from whisperd.daemon.call import Call
from whisperd.hardware import Gpu, find_gpus, read_memory
from whisperd.models import InstalledModel, ModelSummary, shipped_catalogue
from whisperd.models.recommend import Recommendation
from whisperd.models.recommend import recommend as recommend_models
from whisperd.plugins import variants
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.messages import Name, NoParams, Params

__all__ = ["METHODS"]


class ModelParams(Params, frozen=True):
    """Which model: a catalogue name, a hub repository or a folder."""

    name: Name


class ImportParams(Params, frozen=True):
    """A folder with a model, and the name it gets in the store."""

    path: Name
    name: Name


async def list_(call: Call, params: NoParams) -> tuple[ModelSummary, ...]:
    """The models that are installed."""
    return await call.service.models.list()


async def available(call: Call, params: NoParams) -> tuple[ModelSummary, ...]:
    """The catalogue, with what of it is installed."""
    return await call.service.models.available()


async def recommend(call: Call, params: NoParams) -> tuple[Recommendation, ...]:
    """The catalogue, with what fits this computer and which model suits it."""
    gpus: tuple[Gpu, ...] = ()
    if any(variant.device == "cuda" for _, variant in variants()):  # else nothing here computes on one
        gpus = (await find_gpus()).gpus
    return recommend_models(shipped_catalogue().models, read_memory().total, gpus)


async def pull(call: Call, params: ModelParams) -> InstalledModel:
    """Download a model unless it is there; progress comes as events of the topic `models`."""
    return await call.service.models.pull(params.name, call.service.on_model_progress)


async def verify(call: Call, params: ModelParams) -> dict[str, Any]:
    """Read every byte of a model and compare it with its hash."""
    try:
        await call.service.models.verify(params.name)
    except WhisperdError as error:
        if error.code != "model.damaged":
            raise
        return {"name": params.name, "ok": False, "damaged": error.data["files"], "fix": error.fix}
    return {"name": params.name, "ok": True, "damaged": [], "fix": None}


async def remove(call: Call, params: ModelParams) -> dict[str, Any]:
    """Delete a model from the store; one that is loaded is refused."""
    call.service.runtimes.check_unused(call.service.models.canonical_name(params.name))
    freed_bytes = await call.service.models.remove(params.name)
    return {"name": params.name, "freed": freed_bytes}


async def path(call: Call, params: ModelParams) -> dict[str, Any]:
    """Where an installed model lies."""
    return {"path": str(await call.service.models.path(params.name))}


async def import_(call: Call, params: ImportParams) -> InstalledModel:
    """Copy a model from a folder into the store."""
    return await call.service.models.import_folder(params.path, params.name, call.service.on_model_progress)


METHODS = {
    "list": list_,
    "available": available,
    "recommend": recommend,
    "pull": pull,
    "verify": verify,
    "remove": remove,
    "path": path,
    "import": import_,
}
