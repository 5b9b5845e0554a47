"""What is told of a watch: what it is set to, what it is doing and why, and how far it is."""

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
    """The watch of a folder, whose ledger has so many files of each status."""
    preset = folder.preset
    working = counts.get("working", 0) + counts.get("written", 0)
    in_hand = max(working, len(folder.pending.in_hand))  # what is being read is not in the ledger yet
    status, reason = status_of(folder)
    problem = folder.problem or folder.held.problem
    return msgspec.structs.asdict(preset) | {
        "path": preset.path,
        "runtime": preset.runtime and runtime_name(preset.runtime),
        "status": status,
        "reason": reason,
        "error": problem.to_wire() if problem else None,
        "polled": folder.is_polled,
        "pending": folder.pending.waiting + in_hand,
        "working": working,
        "done": counts.get("done", 0),
        "failed": counts.get("failed", 0),
    }


def status_of(folder: WatchFolder) -> tuple[str, str | None]:
    """What a watch is doing, and why."""
    if folder.root is None and folder.problem is not None:
        return "absent", folder.problem.message
    if folder.preset.paused:
        return "paused", None
    if folder.held.for_s and folder.held.problem is not None:
        return "waiting", folder.held.problem.message
    if folder.quiet_for_s:
        return "quiet", f"Quiet hours: {folder.preset.quiet_hours}."
    away = ", ".join(sorted(sendable(place or folder.preset.path) for place in folder.unmounted))
    reason = f"Not mounted: {away}." if away else None
    if "" in folder.unmounted:
        return "absent", reason
    return "scanning" if folder.is_scanning or folder.root is None else "watching", reason
