"""`daemon.*`: status and control of the daemon itself."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, get_args

import psutil
from anyio import to_thread

from whisperd import installed_plugins, paths
from whisperd._version import PROTOCOL, __version__
from whisperd.daemon.exposition import CONTENT_TYPE, Family, Sample, by_label, render
from whisperd.daemon.service import Call, Service
from whisperd.jobs.job import JobStatus
from whisperd.rpc.messages import NoParams
from whisperd.settings import settings_template


async def status(call: Call, params: NoParams) -> dict[str, Any]:
    """Return the daemon's status: version, uptime, runtimes, jobs by status, memory by process, and more."""
    service = call.service
    total, today = service.work.total, service.work.today
    return {
        "version": __version__,
        "protocol": PROTOCOL,
        "pid": os.getpid(),
        "socket": service.socket,
        "config": str(service.config_file),
        "log": str(paths.log_file()),
        "damaged_database": str(service.database.set_aside) if service.database.set_aside else None,
        "uptime": round(time.monotonic() - service.started_s, 3),
        "default_runtime": service.runtimes.default.name,
        "runtimes": [service.view_runtime(runtime) for runtime in service.runtimes.all()],
        "jobs": _jobs(service),
        "memory": await to_thread.run_sync(_memory),
        "audio_seconds": round(total.audio_s, 3),
        "speed": total.speed,
        "today": {"jobs": today.jobs, "audio_seconds": round(today.audio_s, 3), "speed": today.speed},
        "calibrating": service.calibrator.running,
        "windows_waiting": sum(_waiting_windows(service).values()),
        "clients": len(service.connections),
        "environment": sorted(os.environ),
        "plugin_problems": [problem.to_wire() for problem in installed_plugins.problems()],
        "stopping": service.stop_requested.is_set(),
        "service": service.manager_name,
        "on_battery": service.is_on_battery,
        "bulk_held": service.is_bulk_held,
    }


async def metrics(call: Call, params: NoParams) -> dict[str, str]:
    """Return the counters and the current state in Prometheus' text format."""
    service = call.service
    memory: Counter[str] = Counter()
    for name, used in (await to_thread.run_sync(_memory)).items():
        memory[name.split()[0]] += used
    families = [*service.metrics.families(), *_gauges(service, memory)]
    return {"content_type": CONTENT_TYPE, "content": render(families)}


async def stop(call: Call, params: NoParams) -> dict[str, Any]:
    """Start stopping the daemon: jobs that still run after the grace period are cancelled.

    Detached jobs that are active resume in the next daemon.
    """
    call.service.stop_requested.set()
    jobs = call.service.jobs
    return {
        "pid": os.getpid(),
        "grace_period": call.service.settings.daemon.grace_period_s,
        "active_jobs": len(jobs.active()),
        "detached_jobs": sum(job.survives for job in jobs.active()),
    }


async def reload(call: Call, params: NoParams) -> dict[str, Any]:
    """Reload the settings, and return which of the changed ones need a restart."""
    restart_needed = call.service.reload()
    return {"config": str(call.service.config_file), "restart_needed": restart_needed}


async def config(call: Call, params: NoParams) -> dict[str, Any]:
    """Return the settings in effect, as a TOML file with comments."""
    return {"path": str(call.service.config_file), "content": settings_template(call.service.settings)}


ROLES = {
    "whisperd.worker.main": "worker",
    "whisperd.audio.decoder": "decoder",
    "whisperd.folder_changes": "watcher",
    "whisperd.models.convert": "conversion",
    "whisperd.hardware.look": "look",
    "whisperd.hardware.nvml": "look",
}
"""What child processes are called, by module; whisperd's others download or install something."""


def _gauges(service: Service, memory: Mapping[str, int]) -> Iterable[Family]:
    """Return the metrics of the current state; `memory` is the total for each kind of process."""
    jobs, views = _jobs(service), [service.view_runtime(runtime) for runtime in service.runtimes.all()]
    active = {status: jobs[status] for status in ("queued", "running")}
    statuses = [Sample(1, {"runtime": view.name, "status": view.status}) for view in views]
    loaded = {view.name: view.memory for view in views if view.memory}
    started_s = time.time() - (time.monotonic() - service.started_s)
    on_battery = math.nan if service.is_on_battery is None else float(service.is_on_battery)
    for name, help, samples in (
        ("build_info", "The running version.", [Sample(1, {"version": __version__})]),
        ("start_time_seconds", "Unix time at which the daemon started.", [Sample(started_s)]),
        ("clients", "Open connections.", [Sample(len(service.connections))]),
        ("jobs_active", "Jobs that are queued or running, by status.", by_label("status", active)),
        ("jobs_remembered", "Jobs that `jobs list` shows, by status.", by_label("status", jobs)),
        (
            "windows_waiting",
            "Windows of speech waiting to be transcribed.",
            by_label("runtime", _waiting_windows(service)),
        ),
        ("runtime_status", "Always 1, labelled with the current status of each runtime.", statuses),
        ("runtime_memory_bytes", "Resident memory of a runtime's worker.", by_label("runtime", loaded)),
        (
            "process_resident_memory_bytes",
            "Resident memory, by kind of process.",
            by_label("process", memory),
        ),
        ("watch_folders", "Watch folders, by status.", by_label("status", service.watches.statuses())),
        ("on_battery", "1 on battery, 0 on mains power, NaN if unknown.", [Sample(on_battery)]),
        ("bulk_held", "1 while bulk work waits for mains power.", [Sample(service.is_bulk_held)]),
    ):
        yield Family(name, "gauge", help, samples)


def _jobs(service: Service) -> dict[str, int]:
    """Count the remembered jobs by status."""
    counts = Counter(str(job.status) for job in service.jobs.remembered())
    return {status: counts[status] for status in get_args(JobStatus)}


def _waiting_windows(service: Service) -> dict[str, int]:
    """Count the windows that wait for each loaded runtime."""
    return {
        runtime.name: service.jobs.waiting_windows(runtime.loaded)
        for runtime in service.runtimes.all()
        if runtime.loaded
    }


def _memory() -> dict[str, int]:
    """Return the resident bytes of the daemon and each child, by role. Blocks: it reads every process."""
    memory = {}
    with suppress(OSError):  # too many open files
        me = psutil.Process()
        memory["daemon"] = me.memory_info().rss
        for child in me.children():
            with suppress(psutil.Error):  # it just exited
                memory[f"{_role(child.cmdline())} {child.pid}"] = child.memory_info().rss
    return memory


def _role(command: list[str]) -> str:
    modules = [argument for argument in command if argument.startswith("whisperd.")]
    return next((ROLES[one] for one in modules if one in ROLES), "download" if modules else "child")
