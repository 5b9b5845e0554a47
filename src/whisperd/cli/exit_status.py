"""Exit statuses, and which error code has which (docs/interface.md)."""

from __future__ import annotations

from whisperd.rpc.errors import WhisperdError

__all__ = [
    "CODES",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "NOT_FOUND",
    "REFUSED",
    "UNREACHABLE",
    "USAGE",
    "CannotConnect",
    "is_unreachable",
    "of_several",
    "status_of",
]

DONE = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
NOT_FOUND = 4
REFUSED = 5
INTERRUPTED = 130

CODES = {
    USAGE: (
        "clips.beyond_end",
        "clips.invalid",
        "format.unknown",
        "language.not_in_model",
        "language.unknown",
        "live.invalid_option",
        "model.invalid_name",
        "profile.invalid",
        "rpc.invalid_params",
        "runtime.invalid",
        "search.invalid",
        "task.not_in_model",
        "timestamps.not_in_model",
        "track.unknown",
        "watch.invalid",
        "watch.not_a_folder",
    ),
    UNREACHABLE: (
        "daemon.connection_lost",
        "daemon.foreign",
        "daemon.not_responding",
        "daemon.start_failed",
        "daemon.stopping",
        "daemon.too_many_connections",
        "daemon.unreachable",
        "protocol.unsupported",
    ),
    NOT_FOUND: (
        "audio.not_found",
        "calibration.none",
        "hub.not_found",
        "job.input_gone",
        "job.text_gone",
        "job.unknown",
        "log.none",
        "model.not_installed",
        "model.unavailable",
        "model.unknown",
        "native.no_previous",
        "native.not_installed",
        "native.unknown",
        "profile.unknown",
        "runtime.unknown",
        "search.nothing",
        "watch.absent",
        "watch.unknown",
        "watch.unknown_file",
    ),
    REFUSED: (
        "config.exists",
        "job.not_retryable",
        "job.queue_full",
        "model.exists",
        "model.in_place",
        "model.in_use",
        "model.offline",
        "native.in_use",
        "native.not_upgradable",
        "native.offline",
        "native.out_of_range",
        "output.exists",
        "output.is_input",
        "profile.exists",
        "profile.stale",
        "runtime.disabled",
        "runtime.exists",
        "runtime.in_use",
        "runtime.is_default",
        "runtime.is_protected",
        "runtime.not_saved",
        "runtime.stale",
        "service.edited",
        "watch.exists",
        "watch.stale",
    ),
}
"""The error codes of each exit status other than `FAILED` (docs/interface.md)."""


class CannotConnect(WhisperdError):
    """The daemon cannot be reached or started, for the reason that its code gives."""


def status_of(error: WhisperdError) -> int:
    """Return the exit status for an error."""
    if is_unreachable(error):
        return UNREACHABLE
    if error.code.startswith("usage."):
        return USAGE
    return next((status for status, codes in CODES.items() if error.code in codes), FAILED)


def is_unreachable(error: WhisperdError) -> bool:
    """Whether no further request can reach a daemon."""
    return isinstance(error, CannotConnect) or error.code in CODES[UNREACHABLE]


def of_several(statuses: list[int]) -> int:
    """Return the exit status of a command over several things: that of a single one; 3 if the daemon is lost;
    else 1 if any failed.
    """
    if len(statuses) == 1:
        return statuses[0]
    if UNREACHABLE in statuses:
        return UNREACHABLE
    return FAILED if any(statuses) else DONE
