"""Reports the daemon's status to the service manager, and ends the daemon when it has been idle for long."""

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
"""Shortest interval between two status reports."""


async def feed_watchdog(notifier: Notifier) -> None:
    """Signal as often as the manager requires that the event loop runs, until cancelled.

    This runs in the loop, not in a thread: if the loop stalls, the signals stop and the manager restarts us.
    """
    if notifier.watchdog_s is None or not notifier.is_heard:
        return
    while True:
        notifier.alive()
        await anyio.sleep(notifier.watchdog_s)


async def report_status(service: Service) -> None:
    """Report what the daemon does whenever it changes, until cancelled."""
    if not service.notifier.is_heard:
        return
    reported = ""
    while True:
        change = service.idle.change
        if not service.stop_requested.is_set() and (line := status_line(service)) != reported:
            reported = line
            service.notifier.status(line)
        await change.wait()
        await anyio.sleep(REPORT_INTERVAL_S)  # combines frequent changes


async def end_when_idle(service: Service) -> None:
    """Stop the daemon after `exit_when_idle_s` without a client, a job or an active watch; 0 means never."""

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
            log.info("idle for %.0f s: stopping", idle_s)
            service.stop_requested.set()
            return


def status_line(service: Service) -> str:
    """Describe what the daemon does, for `systemctl status`, without names of files or text."""
    counts = Counter(str(job.status) for job in service.jobs.active())
    jobs = [f"{counts[status]} {status}" for status in ("running", "queued") if counts[status]]
    loaded = [one.name for one in service.runtimes.all() if service.runtimes.life(one).status == "loaded"]
    work = f"jobs: {', '.join(jobs)}" if jobs else "no job"
    return f"{work}; loaded: {', '.join(loaded) or 'nothing'}"
