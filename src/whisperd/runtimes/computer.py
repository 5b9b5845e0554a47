"""This computer's capabilities for runtimes: the variants whose needs it meets, and its GPUs."""

from __future__ import annotations

import logging
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
from whisperd.installed_plugins import backends, variants
from whisperd.natives import Bundle
from whisperd.plugins import Backend, Needs, Variant
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.preset import Capabilities, RuntimePreset

__all__ = ["Computer", "JudgedVariant", "judge"]

log = logging.getLogger(__name__)

RENEWED_AFTER_S: Final = 300.0
"""The age at which cached hardware information is refreshed in the background."""


StartSoon = Callable[[Callable[[], Coroutine[Any, Any, object]]], object]
"""Starts a task in the background."""


@dataclass(frozen=True)
class JudgedVariant:
    """A variant, with the reason why this computer cannot use it, if any."""

    backend: Backend
    variant: Variant
    problem: WhisperdError | None
    """The reason why it is unusable, with a fix; None if it is usable."""


class Computer:
    """Inspects this computer on first use and caches the result, since inspection starts processes.

    `start_soon` starts a task in the background; without it, the cache is refreshed only on request.
    `is_installed` reports whether a bundle is installed already and so need not be built.
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
        """When `_hardware` was found."""
        self._looking = anyio.Lock()

    async def hardware(self) -> Hardware:
        """Return this computer's hardware. Only the first call waits; refreshes run in the background."""
        if self._hardware is None:
            return await self.look_again()
        is_old = self._now_s() - self._looked_s > RENEWED_AFTER_S
        if is_old and self._start_soon is not None and not self._looking.locked():
            self._start_soon(self._renew)
        return self._hardware

    async def _renew(self) -> None:
        try:
            await self.look_again()
        except Exception:  # no reason to end the daemon; the next call of `hardware` tries again
            log.exception("looking at the hardware failed unexpectedly")

    async def look_again(self) -> Hardware:
        """Inspect the computer now and return its hardware."""
        asked_s = self._now_s()
        async with self._looking:
            if self._hardware is None or self._looked_s < asked_s:  # else a concurrent call has just looked
                self._hardware = await self._look()
                self._looked_s = self._now_s()
            return self._hardware

    async def judged_variants(
        self, gpus: Gpus | None = None, device_index: Sequence[int] = ()
    ) -> list[JudgedVariant]:
        """Return every variant, the highest priority first, with the reason why this computer cannot use it.

        `gpus` replaces the GPUs that were found. GPU variants get the compute types of the GPUs in
        `device_index`, by default of the first GPU.
        """
        hardware = Hardware()
        # Inspect the computer only if some variant needs anything of it.
        if any(variant.needs != Needs() or variant.device == "cuda" for _, variant in variants()):
            hardware = await self.hardware()
        if gpus is not None:
            hardware = msgspec.structs.replace(hardware, gpus=gpus)
        able = [(backend, _as_gpus_can(one, device_index, hardware.gpus)) for backend, one in variants()]
        # In a thread, because it reads lock files and looks for bundles.
        return await anyio.to_thread.run_sync(judge, able, hardware, self._is_installed)

    async def usable_variants(self, preset: RuntimePreset) -> list[tuple[Backend, Variant]]:
        """Return the variants whose needs this computer meets, the best first.

        If none of those that the preset allows is usable, raises the reason: `variant.not_usable`,
        `native.unsupported`, `cuda.not_available` or `cuda.driver_too_old`.
        """
        gpus: Gpus | None = None
        if preset.wanted_device == "cuda":  # never refuse because of stale information
            gpus = await self._find_gpus()
            if not gpus.gpus:
                raise gpus.problem.copy() if gpus.problem else _no_gpu(preset)
        judged = await self.judged_variants(gpus, preset.device_index)
        problem = _why_none(preset, judged)
        if problem is not None:
            raise problem.copy()
        return [(one.backend, one.variant) for one in judged if one.problem is None]

    async def capabilities(self, preset: RuntimePreset) -> Capabilities:
        """Return the capabilities that a preset is checked against."""
        gpus = await self.gpus(preset)
        # The default is the first GPU; `check_against` reports indexes that do not exist.
        wanted = preset.device_index or (0,)
        used = [gpu for gpu in gpus.gpus if gpu.index in wanted] or gpus.gpus
        return Capabilities(
            backends={backend.name: _compute_types(backend, used) for backend in backends()},
            gpu_count=len(gpus.gpus),
            gpu_problem=gpus.problem,
            cpu_count=usable_cores(),
        )

    async def gpus(self, preset: RuntimePreset) -> Gpus:
        """Return the GPUs that a preset may use, with their free memory as of now."""
        wanted = preset.wanted_device
        may_use = wanted == "cuda" or (wanted == "auto" and _has_cuda_variant())
        return await self._find_gpus() if may_use else Gpus()

    async def usable_gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs that at least one variant can use."""
        gpus = (await self._find_gpus()).gpus if _has_cuda_variant() else ()
        if not gpus:  # without a driver, finding this out starts no process
            return ()
        judged = await self.judged_variants()
        is_usable = any(one.variant.device == "cuda" and one.problem is None for one in judged)
        return gpus if is_usable else ()


def judge(
    announced: Sequence[tuple[Backend, Variant]],
    hardware: Hardware,
    is_installed: Callable[[Bundle], bool] = lambda _: False,
) -> list[JudgedVariant]:
    """Judge which variants a computer can use, in the same order."""
    return [
        JudgedVariant(backend, variant, _problem(variant, hardware, is_installed))
        for backend, variant in announced
    ]


def _problem(
    variant: Variant, hardware: Hardware, is_installed: Callable[[Bundle], bool]
) -> WhisperdError | None:
    """Return what the computer lacks, else why the lock has no bundle for its system and Python."""
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
    """Return why none of a preset's variants is usable; None if one is, or if the preset allows none."""
    asked = [
        one
        for one in judged
        if preset.backend in ("auto", one.backend.name)
        and preset.wanted_device in ("auto", one.variant.device)
    ]
    if not asked or any(one.problem is None for one in asked):
        return None
    # For GPUs report the best variant's problem, otherwise that of the least demanding one.
    return asked[0 if preset.wanted_device == "cuda" else -1].problem


def _has_cuda_variant() -> bool:
    return any(variant.device == "cuda" for _, variant in variants())


def _as_gpus_can(variant: Variant, device_index: Sequence[int], gpus: Gpus) -> Variant:
    """Return a variant limited to the compute types of the selected GPUs, the best ones for these first."""
    used = [gpu for gpu in gpus.gpus if gpu.index in (device_index or (0,))]
    if variant.device != "cuda" or not used:
        return variant
    oldest = min(gpu.compute_capability for gpu in used)
    kinds = tuple(kind for kind in gpu_compute_types(oldest) if kind in variant.compute_types)
    return replace(variant, compute_types=kinds or variant.compute_types)


def _compute_types(backend: Backend, gpus: Sequence[Gpu]) -> dict[str, tuple[str, ...]]:
    """Return by device the compute types that a backend's variants and the hardware (all GPUs) support."""
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
        "This computer has no usable NVIDIA GPU.",
        f"Use the CPU: {edit}.",
    )
