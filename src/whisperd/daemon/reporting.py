"""What the service manager is told of the daemon while it runs, and when the daemon ends by itself."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from whisperd.daemon.service import Service
    from whisperd.service_manager.notify import Notifier

__all__ = ["end_when_idle", "feed_watchdog", "report_status", "status_line"]

log = logging.getLogger(__name__)

REPORT_INTERVAL_S: Final = 1.0
"""The manager is told no more often than this."""


async def feed_watchdog(notifier: Notifier) -> None:
    """Say as often as the manager wants to hear it that the event loop turns, until cancelled.

    From the loop itself and from no thread: if the loop stalls, so does this, and the manager restarts us.
    """
    if notifier.watchdog_s is None or not notifier.is_heard:
        return
    while True:
        notifier.alive()
        await anyio.sleep(notifier.watchdog_s)


async def report_status(service: Service) -> None:
    """Tell what the daemon does whenever that has changed, until cancelled."""
    if not service.notifier.is_heard:
        return
    told = ""
    while True:
        change = service.idle.change
        if not service.stop_requested.is_set() and (line := status_line(service)) != told:
            told = line
            service.notifier.status(line)
        await change.wait()
        await anyio.sleep(REPORT_INTERVAL_S)  # what changes often is told once


async def end_when_idle(service: Service) -> None:
    """End when there was neither a client nor a job for as long as the settings say, if they say so."""

    def is_needed() -> bool:
        is_watching = any(not one.paused for one in service.watches.all())
        return bool(service.connections or service.jobs.active() or is_watching)

    while True:
        idle_s = service.settings.daemon.exit_when_idle_s
        change = service.idle.change
        with anyio.move_on_after(math.inf if is_needed() or idle_s == 0 else idle_s):
            await change.wait()
            continue
        if not is_needed():
            log.info("nobody needed whisperd for %.0f s: it ends", idle_s)
            service.stop_requested.set()
            return


def status_line(service: Service) -> str:
    """What the daemon does, for `systemctl status`. No name of a file and no text is in it."""
    counts = Counter(str(job.status) for job in service.jobs.active())
    jobs = [f"{counts[status]} {status}" for status in ("running", "queued") if counts[status]]
    loaded = [one.name for one in service.runtimes.all() if service.runtimes.life(one).status == "loaded"]
    work = f"jobs: {', '.join(jobs)}" if jobs else "no job"
    return f"{work}; loaded: {', '.join(loaded) or 'nothing'}"
