"""`hardware.*`: this computer's hardware, how it was detected, and which variants it can use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from whisperd import installed_plugins
from whisperd.daemon.service import Call
from whisperd.hardware import Gpus, Hardware, Processor
from whisperd.rpc.messages import NoParams
from whisperd.runtimes.computer import JudgedVariant

__all__ = ["describe"]


async def show(call: Call, params: NoParams) -> dict[str, Any]:
    """Detect the hardware again, and judge every variant by it."""
    hardware = await call.service.computer.look_again()
    judged = await call.service.computer.judged_variants()
    return describe(hardware, judged)


def describe(hardware: Hardware, judged: Sequence[JudgedVariant]) -> dict[str, Any]:
    """Return the description of a computer that is sent to clients."""
    return {
        "system": hardware.system,
        "processor": hardware.processor and _processor(hardware.processor),
        "memory": hardware.memory,
        "gpus": _gpus(hardware.gpus),
        "cuda_libraries": hardware.cuda_libraries,
        "blas": hardware.blas,
        "tools": hardware.tools,
        "unknown": hardware.unknown,
        "variants": [_variant(one) for one in judged],
        "plugin_problems": [problem.to_wire() for problem in installed_plugins.problems()],
    }


def _processor(processor: Processor) -> dict[str, Any]:
    cores = {**msgspec.structs.asdict(processor.cores), "usable": processor.cores.usable}
    return {**msgspec.structs.asdict(processor), "cores": cores}


def _gpus(gpus: Gpus) -> dict[str, Any]:
    return {
        "found": gpus.gpus,
        "driver": gpus.driver,
        "cuda": gpus.cuda,
        "error": gpus.problem and gpus.problem.to_wire(),
        "source": gpus.source,
    }


def _variant(judged: JudgedVariant) -> dict[str, Any]:
    problem = judged.problem
    return {
        "name": judged.variant.name,
        "backend": judged.backend.name,
        "device": judged.variant.device,
        "priority": judged.variant.priority,
        "usable": problem is None,
        "reason": problem and problem.message,
        "fix": problem and problem.fix,
    }
