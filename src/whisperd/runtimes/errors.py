"""What people are told when a runtime cannot do what they ask for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from whisperd.rpc.errors import WhisperdError

__all__ = ["cancelled", "not_saved", "refused", "unexpected", "unknown"]

_REFUSALS = {
    "runtime.is_default": (
        "The runtime {name} is the default.",
        "Make another one the default first: `whisperctl runtimes default NAME`.",
    ),
    "runtime.is_protected": (
        "The runtime {name} is protected.",
        "Lift that first: `whisperctl runtimes edit {quoted} --no-protected`.",
    ),
    "runtime.in_use": (
        "The runtime {name} is used by jobs.",
        "Wait for them, or cancel them: `whisperctl jobs list` shows them.",
    ),
    "runtime.disabled": (
        "The runtime {name} is disabled.",
        "Enable it, `whisperctl runtimes enable {quoted}`, or use another one{others}.",
    ),
    "runtime.unknown": (
        "The runtime {name} has just been deleted.",
        "Use another one{others}.",
    ),
}


def refused(code: str, name: str, others: Sequence[str] = ()) -> WhisperdError:
    """A rule forbids it; `others` are the names of runtimes that could be used instead."""
    message, fix = _REFUSALS.get(
        code,
        (
            "The runtime {name} cannot do this now, by a mistake in whisperd itself.",
            "Please report it with the lines that `whisperctl daemon logs` shows.",
        ),
    )
    quoted = f"'{name}'" if " " in name else name
    words = {"name": name, "quoted": quoted, "others": f": {', '.join(others)}" if others else ""}
    data = {"runtime": name, "runtimes": list(others)}
    return WhisperdError(code, message.format(**words), fix.format(**words), data)


def unknown(name: str, known: Sequence[str]) -> WhisperdError:
    """There is no such runtime; those that there are, are named."""
    near = difflib.get_close_matches(name, known, 1)
    there_are = f"There are: {', '.join(known)}."
    return WhisperdError(
        "runtime.unknown",
        f"There is no runtime {name!r}.",
        f"Did you mean {near[0]}? {there_are}" if near else there_are,
        {"runtime": name, "runtimes": list(known)},
    )


def not_saved(name: str) -> WhisperdError:
    """It was made for once, because a job named its model."""
    return WhisperdError(
        "runtime.not_saved",
        f"The runtime {name} is not saved: it was made because a job named its model.",
        f"Save one with that model: `whisperctl runtimes create NAME --model {name!r}`.",
        {"runtime": name},
    )


def cancelled(name: str) -> WhisperdError:
    """Somebody cancelled the load that a job waited for."""
    return WhisperdError(
        "runtime.cancelled",
        f"Loading the runtime {name} was cancelled.",
        "Send the job again when it may be loaded.",
        {"runtime": name},
    )


def unexpected(name: str) -> WhisperdError:
    """A mistake of ours."""
    return WhisperdError(
        "internal.error",
        f"{name} cannot be loaded because of a mistake in whisperd itself.",
        "Please report it with the lines that `whisperctl daemon logs` shows.",
    )
