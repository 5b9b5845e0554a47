"""Runtimes as text: pure functions from the daemon's answers to lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whisperd.cli.output import ago, counted, facts, local_time, table
from whisperd.quantities import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from typing import Any

    Map = dict[str, Any]

__all__ = ["details", "runtime_table", "span", "what_runs"]

HEADER = ("NAME", "STATUS", "MODEL", "DEVICE", "MEMORY", "LAST USED", "LEASES")
FLEXIBLE = ("NAME", "MODEL", "DEVICE")
DEFAULT_MARK = " *"


def runtime_table(runtimes: Sequence[Map], now: datetime, room: int) -> list[str]:
    """Return a table that fits, with its header."""
    return table(HEADER, [_row(one, now) for one in runtimes], room=room, flexible=FLEXIBLE)


def details(runtime: Map, now: datetime) -> list[str]:
    """Return all that is known of a runtime, one fact per line, and its history."""
    lines = facts([*_facts(runtime, now)])
    if history := runtime.get("history"):
        rows = [(local_time(one["time"]), one["status"], _history_detail(one)) for one in history]
        lines += ["", *table(("TIME", "STATUS", "DETAIL"), rows)]
    return lines


def what_runs(loaded: Map | None) -> str:
    """Return how a runtime was loaded: `cpu, int8, 2 workers with 1 thread each`."""
    if loaded is None:
        return "not loaded"
    parts = [_device(loaded), loaded["compute_type"], counted(loaded["workers"], "worker")]
    if loaded["cpu_threads"]:
        parts[-1] += f" with {counted(loaded['cpu_threads'], 'thread')}"
        parts[-1] += " each" if loaded["workers"] > 1 else ""
    return ", ".join(parts)


def span(seconds: float) -> str:
    """Return a keep-alive in words."""
    if seconds < 0:
        return "forever"
    if seconds == 0:
        return "not at all"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{count:g} {unit}" for count, unit in parts if count)


def _facts(runtime: Map, now: datetime) -> Iterator[tuple[str, object]]:
    yield "name", runtime["name"]
    yield "id", runtime["id"]
    yield "status", ", ".join(filter(None, (_status(runtime), runtime["detail"])))
    if not runtime["saved"]:
        yield "saved", "no, made temporarily for a job that named its model"
    yield "default", runtime["default"]
    yield "enabled", runtime["enabled"]
    yield "protected", runtime["protected"]
    yield "model", runtime["model"] + (" (not installed)" if runtime.get("to_download") else "")
    yield "backend", runtime["backend"]
    yield "device", _device(runtime)
    yield "compute type", runtime["compute_type"]
    yield "CPU threads", runtime["cpu_threads"] or "auto"
    yield "workers", runtime["workers"] or "auto"
    windows = counted((runtime["loaded"] or runtime)["batch_size"], "window")
    yield "batching", f"{windows} together" if runtime["batched"] else "off"
    yield "keep alive", span(runtime["keep_alive"])
    if runtime["variant"]:
        yield "variant", runtime["variant"]
    if runtime.get("note"):
        yield "note", runtime["note"]
    if runtime["loaded"]:
        yield "library", runtime["loaded"]["library"]
        yield "loaded as", what_runs(runtime["loaded"])
        yield "process", runtime["pid"] or "-"
    yield "memory", size(runtime["memory"])
    yield "leases", runtime["leases"]
    yield "waiting", counted(runtime["waiting"], "window")
    yield "last used", "now" if runtime["leases"] else ago(runtime["last_used"], now)
    yield "created", local_time(runtime["created"]) if runtime["created"] else "-"
    yield "changed", local_time(runtime["changed"]) if runtime["changed"] else "-"
    yield "version", runtime["version"]
    if error := runtime["error"]:
        yield "error", [error["message"], *filter(None, [error["fix"]])]


def _row(runtime: Map, now: datetime) -> tuple[str, ...]:
    return (
        runtime["name"] + (DEFAULT_MARK if runtime["default"] else ""),
        _status(runtime),
        runtime["model"],
        _device(runtime["loaded"] or runtime),
        size(runtime["memory"]),
        "now" if runtime["leases"] else ago(runtime["last_used"], now),
        str(runtime["leases"]),
    )


def _status(runtime: Map) -> str:
    status = "deleted" if runtime.get("deleted") else str(runtime["status"])
    if runtime["progress"] is not None and status in ("downloading", "loading"):
        return f"{status} {runtime['progress']:.0f} %"
    if not runtime["enabled"] and status in ("unloaded", "failed", "cancelled"):
        return "disabled"
    return status


def _device(place: Map) -> str:
    """Return a device with its GPU numbers: `cuda:0,1`."""
    numbers = ",".join(map(str, place["device_index"] or ()))
    return f"{place['device']}:{numbers}" if numbers else str(place["device"])


def _history_detail(entry: Map) -> str:
    return entry["error"]["message"] if entry["error"] else entry["detail"] or "-"
