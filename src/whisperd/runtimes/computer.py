"""What this computer can do for a runtime: the variants that it has what they need for, and its GPUs."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from shlex import quote
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec

from whisperd.hardware import (
    Gpu,
    Gpus,
    Hardware,
    find_gpus,
    find_hardware,
    gpu_compute_types,
    usable_cores,
    why_not,
)
from whisperd.natives import Bundle
from whisperd.plugins import Backend, Needs, Variant, backends, variants
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.preset import Capabilities, RuntimePreset

__all__ = ["Computer", "JudgedVariant", "judge"]

RENEWED_AFTER_S: Final = 300.0
"""What was found is used for this long before the computer is looked at again, in the background."""


StartSoon = Callable[[Callable[[], Coroutine[Any, Any, object]]], object]
"""Starts a task in the background."""


@dataclass(frozen=True)
class JudgedVariant:
    """A variant, and whether this computer can use it."""

    backend: Backend
    variant: Variant
    problem: WhisperdError | None
    """The one reason why not, and how to change that."""


class Computer:
    """Looks at this computer when it first matters, and keeps what it found: looking takes processes.

    `start_soon` starts a task in the background; without it, nothing is looked at twice unasked.
    `is_installed` says of a bundle whether it is there already, so that it need not be built.
    """

    def __init__(
        self,
        find_gpus: Callable[[], Awaitable[Gpus]] = find_gpus,
        look: Callable[[], Awaitable[Hardware]] | None = None,
        *,
        start_soon: StartSoon | None = None,
        is_installed: Callable[[Bundle], bool] = lambda _: False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find_gpus = find_gpus
        self._look = look or partial(find_hardware, find_gpus)
        self._start_soon = start_soon
        self._is_installed = is_installed
        self._now_s = now_s
        self._hardware: Hardware | None = None
        self._looked_s = 0.0
        """When what is known was found."""
        self._looking = anyio.Lock()

    async def hardware(self) -> Hardware:
        """What this computer has. Only the first who asks waits; what is old is renewed in the background."""
        if self._hardware is None:
            return await self.look_again()
        is_old = self._now_s() - self._looked_s > RENEWED_AFTER_S
        if is_old and self._start_soon is not None and not self._looking.locked():
            self._start_soon(self.look_again)
        return self._hardware

    async def look_again(self) -> Hardware:
        """What this computer has at this moment."""
        asked_s = self._now_s()
        async with self._looking:
            if self._hardware is None or self._looked_s < asked_s:  # else somebody else has just looked
                self._hardware = await self._look()
                self._looked_s = self._now_s()
            return self._hardware

    async def judged_variants(
        self, gpus: Gpus | None = None, device_index: Sequence[int] = ()
    ) -> list[JudgedVariant]:
        """Every variant, the highest priority first, with the reason why this computer cannot use it.

        `gpus` stand for those that were found. Variants for GPUs have the compute types of those that are
        numbered, else of the first.
        """
        hardware = Hardware()
        # Else there is nothing to look at.
        if any(variant.needs != Needs() or variant.device == "cuda" for _, variant in variants()):
            hardware = await self.hardware()
        if gpus is not None:
            hardware = msgspec.structs.replace(hardware, gpus=gpus)
        able = [(backend, _as_gpus_can(one, device_index, hardware.gpus)) for backend, one in variants()]
        # In a thread, for it reads locks and looks for bundles.
        return await anyio.to_thread.run_sync(judge, able, hardware, self._is_installed)

    async def usable_variants(self, preset: RuntimePreset) -> list[tuple[Backend, Variant]]:
        """Those that this computer has what they need for, the best first.

        Raises why not, where none of those can be used that the preset leaves: `variant.not_usable`,
        `native.unsupported`, `cuda.not_available` or `cuda.driver_too_old`.
        """
        gpus: Gpus | None = None
        if preset.wanted_device == "cuda":  # what once was is no reason to refuse it
            gpus = await self._find_gpus()
            if not gpus.gpus:
                raise gpus.problem.copy() if gpus.problem else _no_gpu(preset)
        judged = await self.judged_variants(gpus, preset.device_index)
        problem = _why_none(preset, judged)
        if problem is not None:
            raise problem.copy()
        return [(one.backend, one.variant) for one in judged if one.problem is None]

    async def capabilities(self, preset: RuntimePreset) -> Capabilities:
        """What a preset is checked against."""
        gpus = await self.gpus(preset)
        # Where none is named it is the first; one that is not there is told by its index.
        wanted = preset.device_index or (0,)
        used = [gpu for gpu in gpus.gpus if gpu.index in wanted] or gpus.gpus
        return Capabilities(
            backends={backend.name: _compute_types(backend, used) for backend in backends()},
            gpu_count=len(gpus.gpus),
            gpu_problem=gpus.problem,
            cpu_count=usable_cores(),
        )

    async def gpus(self, preset: RuntimePreset) -> Gpus:
        """The GPUs that a preset may use, with what is free of their memory now."""
        wanted = preset.wanted_device
        may_use = wanted == "cuda" or (wanted == "auto" and _has_cuda_variant())
        return await self._find_gpus() if may_use else Gpus()

    async def usable_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that a variant can compute on."""
        gpus = (await self._find_gpus()).gpus if _has_cuda_variant() else ()
        if not gpus:  # which takes no process where there is no driver
            return ()
        judged = await self.judged_variants()
        is_usable = any(one.variant.device == "cuda" and one.problem is None for one in judged)
        return gpus if is_usable else ()


def judge(
    announced: Sequence[tuple[Backend, Variant]],
    hardware: Hardware,
    is_installed: Callable[[Bundle], bool] = lambda _: False,
) -> list[JudgedVariant]:
    """Which of these a computer can use, in the same order."""
    return [
        JudgedVariant(backend, variant, _problem(variant, hardware, is_installed))
        for backend, variant in announced
    ]


def _problem(
    variant: Variant, hardware: Hardware, is_installed: Callable[[Bundle], bool]
) -> WhisperdError | None:
    """What the computer lacks; else what its system and Python lack, which is told by the lock."""
    bundle, needs = Bundle.of(variant), variant.needs
    not_locked: WhisperdError | None = None
    if bundle is not None:
        try:
            bundle.select()
        except WhisperdError as error:
            not_locked = error.copy()
        else:
            if variant.build is not None and is_installed(bundle):  # it was built already, perhaps elsewhere
                needs = replace(needs, compiler=False, blas=False)
    return why_not(needs, hardware, variant.name) or not_locked


def _why_none(preset: RuntimePreset, judged: Sequence[JudgedVariant]) -> WhisperdError | None:
    """Why no variant that a preset leaves can be used; None where one can, or where there is none at all."""
    asked = [
        one
        for one in judged
        if preset.backend in ("auto", one.backend.name)
        and preset.wanted_device in ("auto", one.variant.device)
    ]
    if not asked or any(one.problem is None for one in asked):
        return None
    # Of GPUs the best variant speaks for all, else the one that asks for least.
    return asked[0 if preset.wanted_device == "cuda" else -1].problem


def _has_cuda_variant() -> bool:
    return any(variant.device == "cuda" for _, variant in variants())


def _as_gpus_can(variant: Variant, device_index: Sequence[int], gpus: Gpus) -> Variant:
    """A variant with the compute types of the GPUs that are used, the best choice for these first."""
    used = [gpu for gpu in gpus.gpus if gpu.index in (device_index or (0,))]
    if variant.device != "cuda" or not used:
        return variant
    oldest = min(gpu.compute_capability for gpu in used)
    kinds = tuple(kind for kind in gpu_compute_types(oldest) if kind in variant.compute_types)
    return replace(variant, compute_types=kinds or variant.compute_types)


def _compute_types(backend: Backend, gpus: Sequence[Gpu]) -> dict[str, tuple[str, ...]]:
    """By device, what the variants of a backend and the hardware can compute in; of GPUs, every one."""
    offered: dict[str, tuple[str, ...]] = {}
    for variant in backend.variants:
        kinds = tuple(variant.compute_types)
        if variant.device == "cuda":
            able = [gpu_compute_types(gpu.compute_capability) for gpu in gpus]
            kinds = tuple(kind for kind in kinds if able and all(kind in types for types in able))
        offered[variant.device] = tuple(dict.fromkeys((*offered.get(variant.device, ()), *kinds)))
    return offered


def _no_gpu(preset: RuntimePreset) -> WhisperdError:
    name = quote(preset.name)
    edit = f"`whisperctl runtimes edit {name} --device cpu`"
    if preset.device_index:
        edit = f"`whisperctl runtimes edit {name} --device cpu --device-index none`"
    return WhisperdError(
        "cuda.not_available",
        "This computer has no NVIDIA GPU that can be used.",
        f"Run it on the processor: {edit}.",
    )
