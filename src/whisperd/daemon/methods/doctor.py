"""`doctor.*`: finds problems, as the daemon sees them."""

from __future__ import annotations

from typing import Any

from anyio import to_thread

from whisperd.daemon.service import Call, Service
from whisperd.doctor import gather, page
from whisperd.doctor.facts import RuntimeFacts
from whisperd.rpc.messages import NoParams


async def check(call: Call, params: NoParams) -> dict[str, Any]:
    """Run the doctor's checks."""
    service = call.service
    facts = await gather(
        service.natives,
        service.models,
        service.computer,
        service.config_file,
        _runtimes(service),
        is_config_named=service.is_config_named,
        database_is_gone=await to_thread.run_sync(service.database.is_gone),
    )
    return page(facts, service.models.catalogue)


def _runtimes(service: Service) -> list[RuntimeFacts]:
    return [
        RuntimeFacts(
            name=runtime.name,
            model=runtime.preset.model,
            default=service.runtimes.life(runtime).is_default,
            enabled=service.runtimes.life(runtime).is_enabled,
            problem=runtime.error,
        )
        for runtime in service.runtimes.all()
    ]
