"""What a failure means for a file, and how long to wait before it is tried again. Pure."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["LONGEST_DELAY_S", "Kind", "kind_of_failure", "retry_delay_s"]

Kind = Literal["file", "passing", "surroundings"]
"""`file`: it will be the same next time. `passing`: it may go well another time. `surroundings`: not the file
is at fault, and what comes next would fail as well."""

LONGEST_DELAY_S: Final = 3600.0

_PASSING: Final = (
    "audio.not_readable",
    "audio.not_found",
    "audio.empty",
    "job.input_changed",
    "output.not_writable",
)
_SURROUNDINGS: Final = tuple(
    """
    cuda. daemon. disk. download. hub. index. job.not_saved job.queue_full library. memory. model. native.
    output.folder_not_writable plugin. profile. runtime. store. variant. worker.not_started
    """.split()  # noqa: SIM905
)
_FILE: Final = ("audio.", "clips.", "format.", "job.cancelled", "language.", "output.", "task.")


def kind_of_failure(code: str) -> Kind:
    """What an error with this code means."""
    if code.startswith(_PASSING):
        return "passing"
    if code.startswith(_SURROUNDINGS):
        return "surroundings"
    return "file" if code.startswith(_FILE) else "passing"


def retry_delay_s(attempt: int, first_s: float, longest_s: float = LONGEST_DELAY_S) -> float:
    """How long to wait after the failure of this number, from 1: twice as long each time, to `longest_s`."""
    return min(first_s * 2.0 ** min(attempt - 1, 30), max(first_s, longest_s))
