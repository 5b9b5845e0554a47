"""Which runtime a job gets: named in the request, else the profile's, else the default. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from whisperd.rpc.errors import WhisperdError

__all__ = ["Choice", "choose"]


@dataclass(frozen=True)
class Choice:
    """A runtime by name or id, or any with a model; neither is the default."""

    runtime: str | None = None
    model: str | None = None


def choose(request: Choice, profile: Choice) -> Choice:
    """What a request asks for where its profile may have asked for something else.

    Raises `runtime.invalid` for a request that names both a runtime and a model.
    """
    if request.runtime is not None and request.model is not None:
        raise WhisperdError(
            "runtime.invalid",
            "A runtime and a model are named, and a runtime has its own model.",
            "Name the one or the other.",
            {"field": "model"},
        )
    if request.runtime is not None or request.model is not None:
        return request
    return profile
