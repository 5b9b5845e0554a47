"""Classify failures, and compute how long to wait before a retry. Pure."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["LONGEST_DELAY_S", "Kind", "kind_of_failure", "retry_delay_s"]

Kind = Literal["file", "transient", "environment"]
"""`file`: the file is at fault and will fail again. `transient`: a retry may succeed. `environment`: the file
is not at fault, and the next files would fail as well."""

LONGEST_DELAY_S: Final = 3600.0

_TRANSIENT: Final = (
    "audio.not_readable",
    "audio.not_found",
    "audio.empty",
    "job.input_changed",
    "output.not_writable",
)
_ENVIRONMENT: Final = tuple(
    """
    cuda. daemon. decoder.not_started disk. download. hub. index. job.not_saved job.queue_full library.
    memory. model. native. output.folder_not_writable plugin. profile. runtime. store. thread. variant.
    worker.not_started
    """.split()  # noqa: SIM905
)
_FILE: Final = ("audio.", "clips.", "format.", "job.cancelled", "language.", "output.", "task.")


def kind_of_failure(code: str) -> Kind:
    """Return what an error with this code means."""
    if code.startswith(_TRANSIENT):
        return "transient"
    if code.startswith(_ENVIRONMENT):
        return "environment"
    return "file" if code.startswith(_FILE) else "transient"


def retry_delay_s(attempt: int, first_s: float, longest_s: float = LONGEST_DELAY_S) -> float:
    """Return the delay after failure number `attempt`, from 1: doubled each time, up to `longest_s`."""
    return min(first_s * 2.0 ** min(attempt - 1, 30), max(first_s, longest_s))
