"""Falling back from a failing variant: which one replaces it, and how long the failed one is avoided.

`VariantFailures` remembers the variants that failed where another one could be installed or loaded, so that
the fault lay with the variant. They are tried last until their bundle, the driver or the runtime changes, or
a user requests a load.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from whisperd.child import ENDED_BY_OTHERS
from whisperd.plugins import Variant
from whisperd.rpc.errors import WhisperdError

__all__ = [
    "FailedVariant",
    "VariantFailures",
    "cannot_download",
    "fallback_note",
    "first_failure",
    "is_fault_of_variant",
    "rules_out",
]

PASSING_S: Final = 600.0
"""How long a failure with a transient cause counts, such as an unreachable network."""

_PASSING: Final = ("network.", "disk.full", "memory.", "native.offline", "native.not_writable")
_FAULTS: Final = ("cuda.", "library.", "native.", "worker.bad_answer", "memory.gpu_not_enough")
"""Codes, or prefixes of codes, of errors that another variant may avoid."""
_DOWNLOADING: Final = (
    "network.",
    "native.offline",
    "native.not_writable",
    "native.no_pip",
)
"""Errors that prevent the installation of any bundle."""
_ABOUT_BUILD: Final = ("no kernel image is available", "PTX was compiled")
"""CUDA's messages about a library that was not built for this GPU or driver."""


@dataclass(frozen=True)
class FailedVariant:
    """A variant that could not be installed or loaded, and why."""

    variant: Variant
    error: WhisperdError


def is_fault_of_variant(error: WhisperdError, variant: Variant) -> bool:
    """Whether another variant may load successfully where this one failed with `error`."""
    if error.code == "worker.died":
        return error.data.get("how") not in ENDED_BY_OTHERS
    if error.code.startswith(_FAULTS):
        return True
    # `faults` does not recognise every message of a GPU library; the rest become `model.load_failed`.
    return error.code == "model.load_failed" and variant.device != "cpu"


def rules_out(failed: FailedVariant, other: Variant) -> bool:
    """Whether a failure implies that another variant fails, too."""
    if failed.variant.name == other.name:
        return True
    if failed.variant.device != other.device:
        return False
    # An older library may support an older GPU or driver; other CUDA errors affect all variants.
    said = str(failed.error.data.get("said", ""))
    is_about_build = any(words in said for words in _ABOUT_BUILD)
    is_about_gpu = failed.error.code.startswith("cuda.") and not is_about_build
    return is_about_gpu or failed.error.code == "memory.gpu_not_enough"


def cannot_download(failed: Iterable[FailedVariant]) -> bool:
    """Whether one of these failures means that nothing can be downloaded: only installed variants remain."""
    return any(one.error.code.startswith(_DOWNLOADING) for one in failed)


def first_failure(failed: Sequence[FailedVariant]) -> WhisperdError:
    """Return the error for when all variants failed: the best one's, with the codes of all in its data."""
    error = failed[0].error.copy()
    if len(failed) > 1:
        error.data["variants"] = {one.variant.name: one.error.code for one in failed}
    return error


def fallback_note(variant: Variant, passed_over: Sequence[FailedVariant]) -> str | None:
    """Return the note shown for a runtime for which better variants failed; None if none did."""
    if not passed_over:
        return None
    reasons = " ".join(f"{one.variant.name} failed: {one.error.message}" for one in passed_over)
    return f"Running as {variant.name}, the next best variant. {reasons} {passed_over[0].error.fix}"


@dataclass(frozen=True)
class _Failure:
    error: WhisperdError
    stamp: str
    until_s: float | None


class VariantFailures:
    """The remembered failures, by model and variant."""

    def __init__(
        self,
        stamp: Callable[[Variant], Awaitable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stamp` identifies the state that a variant depends on: it differs after a change."""
        self._stamp = stamp
        self._clock = clock
        self._failures: dict[tuple[str, str], _Failure] = {}

    async def note(self, model: str, failed: Iterable[FailedVariant]) -> None:
        """Remember variants that failed where another one succeeded."""
        for one in failed:
            passes = one.error.code.startswith(_PASSING)
            until_s = self._clock() + PASSING_S if passes else None
            failure = _Failure(one.error.copy(), await self._stamp(one.variant), until_s)
            self._failures[model, one.variant.name] = failure

    async def find(self, model: str, variant: Variant) -> FailedVariant | None:
        """Return the failure of a variant, if it still counts."""
        failure = self._failures.get((model, variant.name))
        if failure is None:
            return None
        is_over = failure.until_s is not None and self._clock() >= failure.until_s
        if is_over or failure.stamp != await self._stamp(variant):
            self._failures.pop((model, variant.name), None)
            return None
        return FailedVariant(variant, failure.error.copy())

    def forget(self, model: str) -> None:
        """Forget all failures with a model, so that its variants are tried again."""
        for key in [key for key in self._failures if key[0] == model]:
            del self._failures[key]
