"""Chooses the options and the runtime of a job: as the job names them, else as its profile does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from whisperd.jobs.job import Job
from whisperd.jobs.options import JobOptions, job_options
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes import Lease, Runtime
from whisperd.runtimes.errors import gone_from_profile
from whisperd.runtimes.profiles import Profile

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = ["lease_for_job", "lease_for_options"]


async def lease_for_options(
    service: Service, requested: dict[str, Any], profile_name: str | None
) -> tuple[JobOptions, Lease, Sequence[str] | None]:
    """Return the options of a job, a lease on its runtime, and the languages of its model, if known.

    Raises `profile.unknown`, `runtime.invalid`, `runtime.unknown`, `runtime.disabled`, and the errors of
    invalid options and models.
    """
    profile = None if profile_name is None else service.profiles.find(profile_name)
    of_profile = {"runtime": profile.runtime, **profile.options} if profile else {}
    # A job that names a runtime or a model uses neither of the profile's.
    names_any = any(requested.get(name) is not None for name in ("runtime", "model"))
    named = requested if names_any else of_profile
    choice = {"runtime": named.get("runtime"), "model": named.get("model")}
    options = job_options({**of_profile, **requested, **choice})
    if options.runtime is not None and options.model is not None:
        raise WhisperdError(
            "runtime.invalid",
            "Both a runtime and a model are named, but a runtime has its own model.",
            "Name only one of them.",
            {"field": "model"},
        )
    return options, *await _lease(service, options, profile)


async def lease_for_job(service: Service, job: Job) -> Lease:
    """Return a lease on the runtime of a job from the journal; if it had none, on a runtime with its model.

    Raises `runtime.unknown`, `runtime.disabled`, and the errors of invalid models.
    """
    if job.runtime_id is not None:
        return service.runtimes.lease(service.runtimes.find(job.runtime_id))
    model = await service.models.describe(job.model)
    return service.runtimes.lease(service.runtimes.with_model(model.name, model.facts))


async def _lease(
    service: Service, options: JobOptions, profile: Profile | None
) -> tuple[Lease, Sequence[str] | None]:
    runtimes, models = service.runtimes, service.models
    if options.model is not None:
        model = await models.describe(options.model)
        return runtimes.lease(runtimes.with_model(model.name, model.facts)), model.languages
    runtime = runtimes.answering if options.runtime is None else _find(service, options.runtime, profile)
    if runtime.loaded is not None:
        return runtimes.lease(runtime), runtime.loaded.info.languages
    lease = runtimes.lease(runtime)
    with lease.released_on_error():
        model = await models.describe(runtime.preset.model)
    return lease, model.languages


def _find(service: Service, name: str, profile: Profile | None) -> Runtime:
    """Return a runtime by name or id. Raises `runtime.unknown`, which says so if the profile names it."""
    try:
        return service.runtimes.find(name)
    except WhisperdError as error:
        if profile is None or profile.runtime != name:
            raise
        raise gone_from_profile(profile.name, name, error.data["runtimes"]) from error
