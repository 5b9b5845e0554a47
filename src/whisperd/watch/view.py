"""Describe a watch to clients: its settings, its status with the reason, and its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from whisperd.rpc.errors import sendable
from whisperd.watch.folder import WatchFolder

__all__ = ["status_of", "view_of"]


def view_of(
    folder: WatchFolder, counts: Mapping[str, int], runtime_name: Callable[[str], str]
) -> dict[str, Any]:
    """Return the wire form of a watch; `counts` are the files in its ledger by status."""
    preset = folder.preset
    working = counts.get("working", 0) + counts.get("written", 0)
    in_progress = max(working, len(folder.pending.in_progress))  # not in the ledger while hashed
    status, reason = status_of(folder)
    problem = folder.problem or folder.backoff.problem
    return msgspec.structs.asdict(preset) | {
        "path": preset.path,
        "runtime": preset.runtime and runtime_name(preset.runtime),
        "status": status,
        "reason": reason,
        "error": problem.to_wire() if problem else None,
        "polled": folder.is_polled,
        "pending": folder.pending.waiting + in_progress,
        "working": working,
        "done": counts.get("done", 0),
        "failed": counts.get("failed", 0),
    }


def status_of(folder: WatchFolder) -> tuple[str, str | None]:
    """Return the status of a watch, and the reason for it."""
    if folder.root is None and folder.problem is not None:
        return "absent", folder.problem.message
    if folder.preset.paused:
        return "paused", None
    if folder.backoff.for_s and folder.backoff.problem is not None:
        return "waiting", folder.backoff.problem.message
    if folder.quiet_for_s:
        return "quiet", f"Quiet hours: {folder.preset.quiet_hours}."
    away = ", ".join(sorted(sendable(place or folder.preset.path) for place in folder.unmounted))
    reason = f"Not mounted: {away}." if away else None
    if "" in folder.unmounted:
        return "absent", reason
    return "scanning" if folder.is_scanning or folder.root is None else "watching", reason
