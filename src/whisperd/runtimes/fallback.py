"""When a variant fails: which one is taken instead, and which one is not tried again for the time being.

`VariantFailures` remembers what failed where another variant did not: it was installed, or loaded. Then the
fault lay with the variant. Such a one is tried last, until something has changed: its bundle, the driver, the
runtime, or the mind of a person who asks for a load.
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
    "first_failure",
    "is_fault_of_variant",
    "needs_no_download",
    "note_on",
    "rules_out",
]

PASSING_S: Final = 600.0
"""How long a failure counts whose cause may pass by itself, such as a network that is away."""

_PASSING: Final = ("network.", "disk.full", "memory.", "native.offline", "native.not_writable")
_FAULTS: Final = ("cuda.", "library.", "native.", "worker.bad_answer", "memory.gpu_not_enough")
"""Codes, or how they begin, of what another variant may do better."""
_DOWNLOADING: Final = (
    "network.",
    "native.offline",
    "native.not_writable",
    "native.no_pip",
)
"""With these no bundle can be installed, whichever it is."""
_ABOUT_BUILD: Final = ("no kernel image is available", "PTX was compiled")
"""What CUDA says of a library that was not built for this GPU or driver."""


@dataclass(frozen=True)
class FailedVariant:
    """A variant that could not be installed or loaded, and why."""

    variant: Variant
    error: WhisperdError


def is_fault_of_variant(error: WhisperdError, variant: Variant) -> bool:
    """Whether another variant may do what this one failed to do when it was loaded."""
    if error.code == "worker.died":
        return error.data.get("how") not in ENDED_BY_OTHERS
    if error.code.startswith(_FAULTS):
        return True
    # What the library of a GPU says is not always known, and then it is taken for the model's fault.
    return error.code == "model.load_failed" and variant.device != "cpu"


def rules_out(failed: FailedVariant, other: Variant) -> bool:
    """Whether a failure tells that another variant fails as well."""
    if failed.variant.name == other.name:
        return True
    if failed.variant.device != other.device:
        return False
    # An older library may have what an older GPU or driver needs; any other refusal holds for all.
    said = str(failed.error.data.get("said", ""))
    is_about_build = any(words in said for words in _ABOUT_BUILD)
    is_about_gpu = failed.error.code.startswith("cuda.") and not is_about_build
    return is_about_gpu or failed.error.code == "memory.gpu_not_enough"


def needs_no_download(failed: Iterable[FailedVariant]) -> bool:
    """Whether only what is installed already is worth a try, since nothing can be downloaded."""
    return any(one.error.code.startswith(_DOWNLOADING) for one in failed)


def first_failure(failed: Sequence[FailedVariant]) -> WhisperdError:
    """What to tell when all have failed: why the best did, and in its data the codes of the others."""
    error = failed[0].error.copy()
    if len(failed) > 1:
        error.data["variants"] = {one.variant.name: one.error.code for one in failed}
    return error


def note_on(variant: Variant, passed_over: Sequence[FailedVariant]) -> str | None:
    """What a person is told of a runtime that was to have something better."""
    if not passed_over:
        return None
    reasons = " ".join(f"{one.variant.name} failed: {one.error.message}" for one in passed_over)
    return f"It runs as {variant.name}, the next best. {reasons} {passed_over[0].error.fix}"


@dataclass(frozen=True)
class _Failure:
    error: WhisperdError
    stamp: str
    until_s: float | None


class VariantFailures:
    """What failed, by model and variant."""

    def __init__(
        self,
        stamp: Callable[[Variant], Awaitable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stamp` tells what a variant depends on: another one after a change."""
        self._stamp = stamp
        self._clock = clock
        self._failures: dict[tuple[str, str], _Failure] = {}

    async def note(self, model: str, failed: Iterable[FailedVariant]) -> None:
        """These failed, and another variant did not."""
        for one in failed:
            passes = one.error.code.startswith(_PASSING)
            until_s = self._clock() + PASSING_S if passes else None
            failure = _Failure(one.error.copy(), await self._stamp(one.variant), until_s)
            self._failures[model, one.variant.name] = failure

    async def find(self, model: str, variant: Variant) -> FailedVariant | None:
        """The failure of a variant, if it still counts."""
        failure = self._failures.get((model, variant.name))
        if failure is None:
            return None
        is_over = failure.until_s is not None and self._clock() >= failure.until_s
        if is_over or failure.stamp != await self._stamp(variant):
            self._failures.pop((model, variant.name), None)
            return None
        return FailedVariant(variant, failure.error.copy())

    def forget(self, model: str) -> None:
        """Somebody wants all of them to be tried again with this model."""
        for key in [key for key in self._failures if key[0] == model]:
            del self._failures[key]
