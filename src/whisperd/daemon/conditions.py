"""What the daemon does when memory is short, on battery, and after the computer has slept."""

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
"""How often we look at power and clocks: a few small files."""
SELDOM: Final = 6
"""So many times longer we wait where there is no battery: that one has slept is all there is to see then."""
RELIEF_PAUSE_S: Final = 2.0
"""Between one relief and the next: so long the kernel takes to notice the first one."""


async def relieve_memory(service: Service, watch: MemoryWatch | None = None) -> None:
    """Unload what nobody uses whenever memory is short, until cancelled."""
    watch = MemoryWatch() if watch is None else watch
    if not watch.is_possible:
        return
    while True:
        relief = await watch.wait()
        if service.settings.runtime.unload_when_memory_is_short:
            await relieve(service, relief)
        await anyio.sleep(RELIEF_PAUSE_S)


async def relieve(service: Service, relief: Relief) -> None:
    """Unload idle runtimes, and the default as well if that is what is needed. Leased ones never."""
    gone = service.runtimes.relieve(with_default=relief == "default")
    if not gone:
        return
    names = ", ".join(name for name, _ in gone)
    log.warning("memory is short: unloading %s, which nobody uses; it is loaded when it is needed", names)
    for _, ended in gone:
        await ended.wait()
    service.metrics.relieved(len(gone))


async def watch_power_and_sleep(
    service: Service,
    on_battery: Callable[[], bool | None] = read_on_battery,
    clocks: Callable[[], Clocks | None] = read_clocks,
    interval_s: float = LOOK_INTERVAL_S,
) -> None:
    """Hold bulk work on battery, and go on cleanly after the computer has slept, until cancelled."""
    before = clocks()
    while True:
        # A battery may take a tenth of a second to answer.
        apply_power(service, found := await to_thread.run_sync(on_battery, abandon_on_cancel=True))
        with anyio.move_on_after(look_again_in_s(found, interval_s)):
            await service.settings_changed.wait()
        now = clocks()
        if slept_s := slept_between(before, now):
            await wake_up(service, slept_s)
        before = now


def look_again_in_s(on_battery: bool | None, interval_s: float) -> float:
    """How long to wait before the next look; every look wakes a processor that may be asleep."""
    return interval_s * SELDOM if on_battery is None else interval_s


def apply_power(service: Service, on_battery: bool | None) -> None:
    """Hold bulk work, or let it go on."""
    is_held = bool(on_battery) and not service.settings.jobs.bulk_on_battery
    if (service.is_on_battery, service.is_bulk_held) == (on_battery, is_held):
        return
    if service.is_bulk_held != is_held:
        log.info("on battery: bulk work waits for mains power" if is_held else "bulk work goes on")
    service.is_on_battery, service.is_bulk_held = on_battery, is_held
    service.jobs.hold(frozenset({"bulk"} if is_held else ()))
    service.idle.notice()


async def wake_up(service: Service, slept_s: float) -> None:
    """The computer has slept. Jobs, deadlines and workers stood still with it, and go on by themselves.

    What this computer has may be something else now: a dock was left, a driver was loaded anew.
    """
    log.info("the computer was suspended for %.0f s; work goes on", slept_s)
    service.metrics.suspended(slept_s)
    await service.computer.look_again()
    service.idle.notice()
