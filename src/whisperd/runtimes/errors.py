"""What people are told when a runtime cannot do what they ask for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from shlex import quote
from typing import Literal

from whisperd.rpc.errors import WhisperdError

__all__ = [
    "Noun",
    "cancelled",
    "check_version",
    "exists",
    "failed",
    "gone_from_profile",
    "model_in_use",
    "no_backend",
    "not_saved",
    "refused",
    "unexpected",
    "unknown",
    "unknown_profile",
]

Noun = Literal["runtime", "profile"]

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
        "The runtime {name} is in use.",
        "Wait for its jobs or cancel them, `whisperctl jobs list` shows them; what somebody loads is given "
        "up with `whisperctl runtimes cancel {quoted}`.",
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
    words = {"name": name, "quoted": quote(name), "others": f": {', '.join(others)}" if others else ""}
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


def exists(noun: Noun, name: str, other: str) -> WhisperdError:
    """There is another one of that name, or with that id."""
    why = ": there is one of that name already" if other == name else f", for it is the id of {other}"
    return WhisperdError(
        f"{noun}.exists",
        f"A {noun} cannot be named {name}{why}.",
        f"Choose another name, or change that one with `whisperctl {noun}s edit {quote(other)}`.",
        {"name": name},
    )


def check_version(noun: Noun, name: str, version: int, expected: int | None) -> None:
    """Raise `runtime.stale` or `profile.stale` where somebody expects another version than there is."""
    if expected not in (None, version):
        raise WhisperdError(
            f"{noun}.stale",
            f"The {noun} {name} was changed by somebody else meanwhile.",
            f"Look at it with `whisperctl {noun}s show {quote(name)}`, then change it again.",
            {"name": name, "version": version, "expected": expected},
        )


def unknown_profile(name: str, names: Iterable[str]) -> WhisperdError:
    """`profile.unknown`, with the names that there are."""
    known = sorted(names)
    return WhisperdError(
        "profile.unknown",
        f"There is no profile {name!r}.",
        f"Use one of {', '.join(known)}, or make it with `whisperctl profiles create {quote(name)}`."
        if known
        else "Make one with `whisperctl profiles create NAME`.",
        {"name": name, "profiles": known},
    )


def gone_from_profile(profile: str, id_: str, known: Sequence[str]) -> WhisperdError:
    """The runtime of a profile was deleted; those that there are, are named."""
    return WhisperdError(
        "runtime.unknown",
        f"The runtime of the profile {profile} was deleted.",
        f"Give it another one with `whisperctl profiles edit {quote(profile)} --runtime NAME`; there are: "
        f"{', '.join(known)}.",
        {"runtime": id_, "runtimes": list(known), "profile": profile},
    )


def failed(error: WhisperdError, name: str, others: Sequence[str]) -> WhisperdError:
    """Why a runtime cannot be had, for who waited for it; `others` could be used instead."""
    told = error.copy()
    told.data.update(runtime=name, runtimes=list(others))
    if others:
        told.fix = f"{told.fix} Or use another runtime: {', '.join(others)}."
    return told


def model_in_use(model: str, name: str, status: str, *, is_default: bool) -> WhisperdError:
    """The runtime with that name has the model's files open."""
    unload = f"`whisperctl runtimes unload {quote(name)}`"
    return WhisperdError(
        "model.in_use",
        f"The model {model} is {status} as the runtime {name}.",
        "Make another one the default first: `whisperctl runtimes default NAME`; then unload this one: "
        f"{unload}."
        if is_default
        else f"Unload it first: {unload}.",
    )


def no_backend() -> WhisperdError:
    """There is nothing that could run a model."""
    return WhisperdError(
        "backend.none",
        "No backend is installed.",
        "Install one: `pip install whisperd-ctranslate2` into the environment of whisperd.",
    )


def not_saved(name: str) -> WhisperdError:
    """It was made for once, because a job named its model."""
    return WhisperdError(
        "runtime.not_saved",
        f"The runtime {name} is not saved: it was made because a job named its model.",
        f"Save one with that model: `whisperctl runtimes create NAME --model {quote(name)}`.",
        {"runtime": name},
    )


def cancelled(name: str) -> WhisperdError:
    """Somebody cancelled the load that a job waited for."""
    return WhisperdError(
        "runtime.cancelled",
        f"Loading the runtime {name} was cancelled.",
        "Load it again, or send the job again, when it may be loaded.",
        {"runtime": name},
    )


def unexpected(name: str) -> WhisperdError:
    """A mistake of ours."""
    return WhisperdError(
        "internal.error",
        f"{name} cannot be loaded because of a mistake in whisperd itself.",
        "Please report it with the lines that `whisperctl daemon logs` shows.",
    )
