"""The errors of watches, with fixes that a user can act on."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence

from whisperd.rpc.errors import WhisperdError, unexpected_error
from whisperd.watch.preset import WatchPreset, invalid

__all__ = [
    "absent",
    "exists",
    "no_place_for_recordings",
    "not_a_folder",
    "stale",
    "to_whisperd_error",
    "unknown_file",
    "unknown_watch",
]

log = logging.getLogger(__name__)


def absent(path: str, message: str, fix: str) -> WhisperdError:
    """`watch.absent`: the folder does not exist."""
    return WhisperdError("watch.absent", message, fix, {"path": path})


def exists(path: str) -> WhisperdError:
    """`watch.exists`: a folder can have only one watch."""
    return WhisperdError(
        "watch.exists",
        f"{path} is already watched.",
        f"Change its settings with `whisperctl watch edit {shlex.quote(path)}`.",
        {"path": path},
    )


def no_place_for_recordings(path: str) -> WhisperdError:
    """`watch.invalid`: the root folder, or a virtual file system of the kernel."""
    what = "is the whole computer" if path == "/" else "belongs to the system and holds no recordings"
    return invalid(
        "path", f"{path} cannot be watched: it {what}.", "Name the folder that recordings are put into."
    )


def not_a_folder(path: str) -> WhisperdError:
    """`watch.not_a_folder`: it is a file, a folder that we may not read, or a foreign link."""
    return WhisperdError(
        "watch.not_a_folder",
        f"{path} is not a readable folder.",
        "Name a folder, and check its permissions; if another user made a link to it, name its real path.",
        {"path": path},
    )


def stale(preset: WatchPreset, version: int) -> WhisperdError:
    """`watch.stale`: the watch was changed since the client read it."""
    return WhisperdError(
        "watch.stale",
        f"The watch folder {preset.id} was changed by another client in the meantime.",
        f"Check it with `whisperctl watch show {preset.id}`, then make your change again.",
        {"id": preset.id, "version": preset.version, "expected": version},
    )


def to_whisperd_error(watch: str, error: Exception) -> WhisperdError:
    """Return the error to report for an exception; log an unexpected one, which is a bug of ours."""
    if isinstance(error, WhisperdError):
        return error.copy()
    log.error("watch folder %s: unexpected error", watch, exc_info=error)
    return unexpected_error("The job failed", error)


def unknown_file(path: str) -> WhisperdError:
    """`watch.unknown_file`: the ledger has no such file, or it is deleted or excluded."""
    return WhisperdError(
        "watch.unknown_file",
        f"{path} is not a file of this watch folder: it was never taken, no longer exists, or is excluded.",
        "`whisperctl watch log FOLDER` lists its files, and `whisperctl watch show FOLDER` the patterns.",
        {"path": path},
    )


def unknown_watch(name: str, paths: Sequence[str] = ()) -> WhisperdError:
    """`watch.unknown`, with the watched folders."""
    return WhisperdError(
        "watch.unknown",
        f"There is no watch folder {name!r}.",
        "List the watch folders with `whisperctl watch list`."
        if paths
        else "Add one with `whisperctl watch add FOLDER`.",
        {"name": name, "paths": list(paths)},
    )
