"""The daemon's reactions to low memory, battery power, and suspension of the computer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from whisperd.conditions.power import read_on_battery
from whisperd.conditions.pressure import MemoryWatch, Relief
from whisperd.conditions.suspension import Clocks, read_clocks, slept_between

if TYPE_CHECKING:
    from whisperd.daemon.service import Service

__all__ = ["relieve_memory", "watch_power_and_sleep"]

log = logging.getLogger(__name__)

LOOK_INTERVAL_S: Final = 5.0
"""How often power and clocks are checked, which reads a few small files."""
SELDOM: Final = 6
"""Without a battery, this many times longer: then only suspensions can be detected."""
RELIEF_PAUSE_S: Final = 2.0
"""Pause after memory was freed: the kernel takes this long to notice it."""


async def relieve_memory(service: Service, watch: MemoryWatch | None = None) -> None:
    """Unload unused runtimes whenever memory is short, until cancelled."""
    watch = MemoryWatch() if watch is None else watch
    if not watch.is_possible:
        return
    while True:
        relief = await watch.wait()
        if service.settings.runtime.unload_when_memory_is_short:
            await relieve(service, relief)
        await anyio.sleep(RELIEF_PAUSE_S)


async def relieve(service: Service, relief: Relief) -> None:
    """Unload idle runtimes, including the default if `relief` says so, but never leased ones."""
    unloaded = service.runtimes.relieve(with_default=relief == "default")
    if not unloaded:
        return
    names = ", ".join(name for name, _ in unloaded)
    log.warning("memory is short: unloading %s, unused; loaded again when needed", names)
    for _, ended in unloaded:
        await ended.wait()
    service.metrics.relieved(len(unloaded))


async def watch_power_and_sleep(
    service: Service,
    on_battery: Callable[[], bool | None] = read_on_battery,
    clocks: Callable[[], Clocks | None] = read_clocks,
    interval_s: float = LOOK_INTERVAL_S,
) -> None:
    """Hold bulk work on battery, and recover after the computer was suspended, until cancelled."""
    before = clocks()
    while True:
        # A battery may take a tenth of a second to answer.
        apply_power(service, found := await to_thread.run_sync(on_battery, abandon_on_cancel=True))
        with anyio.move_on_after(check_interval_s(found, interval_s)):
            await service.settings_changed.wait()
        now = clocks()
        if slept_s := slept_between(before, now):
            await wake_up(service, slept_s)
        before = now


def check_interval_s(on_battery: bool | None, interval_s: float) -> float:
    """Return how long to wait before the next check; each check wakes a CPU that may be asleep."""
    return interval_s * SELDOM if on_battery is None else interval_s


def apply_power(service: Service, on_battery: bool | None) -> None:
    """Hold bulk work, or let it continue."""
    is_held = bool(on_battery) and not service.settings.jobs.bulk_on_battery
    if (service.is_on_battery, service.is_bulk_held) == (on_battery, is_held):
        return
    if service.is_bulk_held != is_held:
        log.info("on battery: bulk work waits for mains power" if is_held else "bulk work continues")
    service.is_on_battery, service.is_bulk_held = on_battery, is_held
    service.jobs.hold(frozenset({"bulk"} if is_held else ()))
    service.idle.notice()


async def wake_up(service: Service, slept_s: float) -> None:
    """Recover after a suspension. Jobs, deadlines and workers stopped with the computer, and need no action.

    Its hardware may have changed: it may have been undocked, or a driver reloaded.
    """
    log.info("the computer was suspended for %.0f s; work continues", slept_s)
    service.metrics.suspended(slept_s)
    await service.computer.look_again()
    service.idle.notice()
