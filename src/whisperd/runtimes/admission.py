"""Admits runtimes into memory: estimates what they need, finds what is free, and unloads idle ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import anyio

from whisperd.hardware import Gpu, Memory, read_memory
from whisperd.models import ModelStore, loading_bytes, need_bytes
from whisperd.rpc.errors import WhisperdError
from whisperd.runtimes.computer import Computer
from whisperd.runtimes.life import Life
from whisperd.runtimes.memory import largest_that_fits, not_enough_memory, plan
from whisperd.runtimes.prepare import Prepared, with_fewer_workers
from whisperd.runtimes.preset import RuntimePreset
from whisperd.runtimes.runtime import Runtime
from whisperd.worker.protocol import LoadParams

__all__ = ["Admission", "BytesByPlace", "Tenants", "free_in"]

Place = int | None
"""The number of a GPU, or None for the computer's own memory."""
BytesByPlace = Mapping[Place, int]
"""Bytes by place."""


class Tenants(Protocol):
    """The runtimes that occupy memory; implemented by the runtime manager."""

    def occupants(self) -> Sequence[Runtime]:
        """Return the runtimes that have a worker, or memory reserved for one."""

    def life(self, runtime: Runtime) -> Life:
        """Return the state of a runtime."""

    def evict(self, runtime: Runtime) -> anyio.Event:
        """Unload an idle runtime; the returned event is set when its memory is free."""


class Admission:
    """Admits runtimes into memory one at a time, so that no two count on the same free memory."""

    def __init__(
        self,
        models: ModelStore,
        computer: Computer,
        limit: Callable[[], int],
        memory: Callable[[], Memory] = read_memory,
    ) -> None:
        self._models = models
        self._computer = computer
        self._limit = limit
        """Bytes that all runtimes may use together; 0: no limit but the memory itself."""
        self._memory = memory
        self._turn = anyio.Lock()

    async def admit(
        self, tenants: Tenants, runtime: Runtime, prepared: Prepared, params: LoadParams
    ) -> LoadParams:
        """Make room for a runtime, unloading idle ones if necessary, the least recently used first.

        Returns the parameters to load it with: if the usual number of workers does not fit, and its preset
        sets none, those of fewer. No runtime is refused while others are being loaded or unloaded, because it
        is unknown how much memory these will leave. Sets the runtime's `needs`. Raises `memory.not_enough`
        and `memory.gpu_not_enough`, with the largest model that would fit.
        """
        while True:
            needs = await self._needs(runtime.preset.model, prepared, params, runtime.batch_size)
            try:
                while moving := await self._try_to_admit(tenants, runtime, params, needs):
                    await moving.wait()
            except WhisperdError:
                fewer = with_fewer_workers(runtime.preset, params)
                if fewer is None:
                    raise
                params = fewer
            else:
                return params

    async def _try_to_admit(
        self, tenants: Tenants, runtime: Runtime, params: LoadParams, needs: BytesByPlace
    ) -> anyio.Event | None:
        """Try to make room; if others are in transition and it does not fit yet, return what to wait for."""
        async with self._turn:
            while True:
                places = await self._places(runtime.preset, needs)
                # After the `await`, during which an idle runtime may have been leased.
                others = [one for one in tenants.occupants() if one is not runtime]
                idle = [one for one in others if tenants.life(one).is_idle]
                free = free_in(places, self._limit(), others)
                try:
                    leaving = self._leaving(runtime, params, needs, free, idle)
                except WhisperdError:
                    # A runtime being loaded or unloaded signals its progress with `changed`.
                    moving = (one.changed.next for one in others if not tenants.life(one).is_settled)
                    if (event := next(moving, None)) is not None:
                        return event
                    raise
                if not leaving:
                    runtime.needs = needs
                    return None
                for gone in [tenants.evict(one) for one in leaving]:
                    await gone.wait()

    async def check(
        self, tenants: Tenants, preset: RuntimePreset, prepared: Prepared, params: LoadParams, batch_size: int
    ) -> None:
        """Raise `memory.not_enough` or `memory.gpu_not_enough` if a worker does not fit at this moment."""
        needs = await self._needs(preset.model, prepared, params, batch_size)
        free = free_in(await self._places(preset, needs), self._limit(), tenants.occupants())
        for place, need in needs.items():
            left = free.get(place, need)
            if need > left:
                raise not_enough_memory(preset.model, need, max(0, left), None, is_on_gpu=place is not None)

    async def _needs(
        self, model: str, prepared: Prepared, params: LoadParams, batch_size: int
    ) -> dict[Place, int]:
        """Return the most memory that it will use, by place."""
        parameters, decoder_share = await self._models.size(model)
        estimate = prepared.backend.need_bytes or partial(need_bytes, decoder_share=decoder_share)
        stored = prepared.precision or params.compute_type

        def need(device: str, replicas: int) -> int:
            return estimate(parameters, stored, batch_size=batch_size, replicas=replicas, device=device)

        loading = loading_bytes(parameters, params.compute_type)
        if params.device == "cpu":
            most = need("cpu", params.replicas)
            return {None: max(most, loading) if prepared.is_unconverted else most}
        on_gpus: dict[Place, int] = {
            index: need(params.device, _replicas_on(params, index)) for index in params.device_index
        }
        return {None: loading, **on_gpus}

    async def _places(self, preset: RuntimePreset, needs: BytesByPlace) -> dict[Place, int]:
        """Return the free memory of the places that matter.

        GPUs that the driver does not report are left out: the load will show whether their memory suffices.
        """
        free: dict[Place, int] = {None: self._memory().available}
        if any(place is not None for place in needs):
            gpus: Sequence[Gpu] = (await self._computer.gpus(preset)).gpus
            free |= {gpu.index: gpu.memory_free for gpu in gpus}
        return free

    def _leaving(
        self,
        runtime: Runtime,
        params: LoadParams,
        needs: BytesByPlace,
        free: BytesByPlace,
        idle: Sequence[Runtime],
    ) -> list[Runtime]:
        """Return which runtimes to unload. Raises the error for the user if that is not enough."""
        idle = sorted(idle, key=lambda one: one.unused_since_s)
        leaving: set[str] = set()
        for place, need in needs.items():
            there = [(one.id, _gives_back(one, place)) for one in idle if place in one.needs]
            gone, left = plan(need, free.get(place, need), there)
            if need > left:
                raise self._not_enough(runtime, params, place, need, max(0, left))
            leaving.update(gone)
        return [one for one in idle if one.id in leaving]

    def _not_enough(
        self, runtime: Runtime, params: LoadParams, place: Place, need: int, free: int
    ) -> WhisperdError:
        replicas = _replicas_on(params, place)
        largest = largest_that_fits(
            self._models.catalogue.models,
            free,
            compute_type=params.compute_type,
            batch_size=runtime.batch_size,
            replicas=replicas,
            device=params.device,
            english_only=runtime.preset.model.endswith(".en"),
        )
        error = not_enough_memory(
            runtime.name,
            need,
            free,
            largest,
            is_on_gpu=place is not None,
            batch_size=runtime.batch_size,
            replicas=params.replicas,
            is_saved=runtime.is_saved,
        )
        if place is None and self._limit():
            error.fix += " The setting runtime.memory_bytes limits the memory of all runtimes together."
        return error


def free_in(free: BytesByPlace, limit: int, occupants: Sequence[Runtime]) -> dict[Place, int]:
    """Return the memory available to a new runtime: what is free, less what the occupants may still allocate.

    It is negative where these have been promised more than there is.
    """
    left = dict(free)
    for one in occupants:
        for place, need in one.needs.items():
            if place in left:
                # A worker's use of GPU memory is unknown: assume that it has all it needs once loaded.
                taken = _taken(one) if place is None else need if one.loaded else 0
                left[place] -= max(0, need - taken)
    if limit:
        left[None] = min(left[None], limit - sum(_gives_back(one, None) for one in occupants))
    return left


def _taken(one: Runtime) -> int:
    """Return how much of the computer's memory its worker uses at the moment."""
    return (one.loaded.memory_bytes if one.loaded else 0) or 0


def _gives_back(one: Runtime, place: Place) -> int:
    need = one.needs.get(place, 0)
    return max(need, _taken(one)) if place is None else need


def _replicas_on(params: LoadParams, place: Place) -> int:
    return params.replicas if place is None else max(1, params.replicas // len(params.device_index))
