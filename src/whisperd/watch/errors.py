"""What can go wrong with a watch, in words that a person can act on."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence

from whisperd.jobs.job import unexpected_error
from whisperd.rpc.errors import WhisperdError
from whisperd.watch.preset import WatchPreset, invalid

__all__ = [
    "absent",
    "exists",
    "no_place_for_recordings",
    "not_a_folder",
    "stale",
    "told",
    "unknown_file",
    "unknown_watch",
]

log = logging.getLogger(__name__)


def absent(path: str, message: str, fix: str) -> WhisperdError:
    """`watch.absent`: the folder is not there."""
    return WhisperdError("watch.absent", message, fix, {"path": path})


def exists(path: str) -> WhisperdError:
    """`watch.exists`: a folder has one watch."""
    return WhisperdError(
        "watch.exists",
        f"{path} is watched already.",
        f"Change that watch with `whisperctl watch edit {shlex.quote(path)}`.",
        {"path": path},
    )


def no_place_for_recordings(path: str) -> WhisperdError:
    """`watch.invalid`: the whole computer, or what the kernel makes up."""
    what = "the whole computer" if path == "/" else "made by the system, and holds no recordings"
    return invalid(
        "path", f"{path} cannot be watched: it is {what}.", "Name the folder that recordings are put into."
    )


def not_a_folder(path: str) -> WhisperdError:
    """`watch.not_a_folder`: a file, or a folder that is forbidden to us, cannot be watched."""
    return WhisperdError(
        "watch.not_a_folder",
        f"{path} is no folder that can be read.",
        "Name a folder, and check its permissions.",
        {"path": path},
    )


def stale(preset: WatchPreset, version: int) -> WhisperdError:
    """`watch.stale`: it was changed since it was read."""
    return WhisperdError(
        "watch.stale",
        f"The watch {preset.id} was changed by somebody else meanwhile.",
        f"Look at it with `whisperctl watch show {preset.id}`, then change it again.",
        {"id": preset.id, "version": preset.version, "expected": version},
    )


def told(watch: str, error: Exception) -> WhisperdError:
    """What a person is told of a failure; one that is a mistake of ours is logged."""
    if isinstance(error, WhisperdError):
        return error.copy()
    log.error("watch %s: something failed unexpectedly", watch, exc_info=error)
    return unexpected_error()


def unknown_file(path: str) -> WhisperdError:
    """`watch.unknown_file`: the ledger has no such file, or it is gone or excluded."""
    return WhisperdError(
        "watch.unknown_file",
        f"{path} is no file of this watch that was taken, is there and is wanted.",
        "`whisperctl watch log FOLDER` shows what was taken, `whisperctl watch show FOLDER` what is wanted.",
        {"path": path},
    )


def unknown_watch(name: str, paths: Sequence[str] = ()) -> WhisperdError:
    """`watch.unknown`, with the folders that are watched."""
    return WhisperdError(
        "watch.unknown",
        f"There is no watch {name!r}.",
        "`whisperctl watch list` shows those that there are."
        if paths
        else "Add one with `whisperctl watch add FOLDER`.",
        {"name": name, "paths": list(paths)},
    )
