"""Builds the recipe of a job, from its options, model, runtime and bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio.to_thread
import msgspec

from whisperd.daemon.bundles import media_bundle
from whisperd.jobs.recipe import Recipe, options_that_matter, rules_digest
from whisperd.natives import Bundle
from whisperd.runtimes.prepare import compute_type

if TYPE_CHECKING:
    from whisperd.daemon.service import Service
    from whisperd.jobs.job import Job
    from whisperd.runtimes import Lease, LoadedRuntime, Runtime

__all__ = ["recipe_of"]

_rules: dict[str, str] = {}
"""Digests of the code by engine, so that its files are read once."""
_models: WeakKeyDictionary[LoadedRuntime, tuple[int, str]] = WeakKeyDictionary()
"""For each loaded runtime: its worker's process id, and the identity of the model that it has loaded."""


async def recipe_of(service: Service, job: Job, lease: Lease) -> Recipe:
    """Return everything that determines the text of a job on a runtime, which may not be loaded yet.

    Raises `WhisperdError` if the runtime would have to be downloaded first.
    """
    preset, prepared = lease.runtime.preset, lease.runtime.prepared
    # If it is not usable now, it may be loaded differently by then.
    if prepared is not None and service.runtimes.life(lease.runtime).is_usable:
        backend, variant, tuning = prepared.backend, prepared.variant, prepared.tuning
        model = await _identity_of_loaded(service, lease.runtime)
    else:
        backend, variant, tuning = await service.provisioner.choose(preset)
        model = await service.models.identity(preset.model)
    bundle = Bundle.of(variant)
    engine = {
        "model": model,
        "variant": variant.name,
        "environment": dict(variant.environment),
        "bundle": service.natives.current(bundle).select().digest if bundle else None,
        "precision": compute_type(preset, variant),
        "context_margin_s": tuning.context_margin_s if tuning else None,
    }
    settings = service.settings
    if backend.engine not in _rules:
        _rules[backend.engine] = await anyio.to_thread.run_sync(rules_digest, backend.engine)
    return Recipe(
        rules=_rules[backend.engine],
        engine=msgspec.json.encode(engine, order="deterministic").decode(),
        decoder=service.natives.current(media_bundle()).select().digest,
        max_window_s=settings.decoder.max_window_s,
        options=options_that_matter(job.options, job.options.decode_options(settings.runtime.beam_size)),
    )


async def _identity_of_loaded(service: Service, runtime: Runtime) -> str:
    """Return the identity of a runtime's model, computed once per process that has loaded it."""
    loaded, name = runtime.loaded, runtime.preset.model
    if loaded is None or loaded.pid is None:
        return await service.models.identity(name)
    pid = loaded.pid
    if _models.get(loaded, (0, ""))[0] != pid:
        _models[loaded] = pid, await service.models.identity(name)
    return _models[loaded][1]
