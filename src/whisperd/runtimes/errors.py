"""Errors of runtimes and profiles, with their messages and fixes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from shlex import quote
from typing import Literal

from whisperd.rpc.errors import WhisperdError, internal_error

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
    "unknown",
    "unknown_profile",
]

Noun = Literal["runtime", "profile"]

_REFUSALS = {
    "runtime.is_default": (
        "The runtime {name} is the default.",
        "Make another runtime the default first: `whisperctl runtimes default NAME`.",
    ),
    "runtime.is_protected": (
        "The runtime {name} is protected.",
        "Remove the protection first: `whisperctl runtimes edit {quoted} --no-protected`.",
    ),
    "runtime.in_use": (
        "The runtime {name} is in use.",
        "Wait for its jobs or cancel them (`whisperctl jobs list` lists them); cancel a load with "
        "`whisperctl runtimes cancel {quoted}`.",
    ),
    "runtime.disabled": (
        "The runtime {name} is disabled.",
        "Enable it with `whisperctl runtimes enable {quoted}`, or use another runtime{others}.",
    ),
    "runtime.unknown": (
        "The runtime {name} has just been deleted.",
        "Use another runtime{others}.",
    ),
}


def refused(code: str, name: str, others: Sequence[str] = ()) -> WhisperdError:
    """Return the error of a refused action; `others` are the names of runtimes to use instead."""
    if code not in _REFUSALS:
        return internal_error(f"The runtime {name} cannot do this now")
    message, fix = _REFUSALS[code]
    words = {"name": name, "quoted": quote(name), "others": f": {', '.join(others)}" if others else ""}
    data = {"runtime": name, "runtimes": list(others)}
    return WhisperdError(code, message.format(**words), fix.format(**words), data)


def unknown(name: str, known: Sequence[str]) -> WhisperdError:
    """Return `runtime.unknown` for a name that no runtime has; lists the `known` ones."""
    near = difflib.get_close_matches(name, known, 1)
    existing = f"Existing runtimes: {', '.join(known)}."
    return WhisperdError(
        "runtime.unknown",
        f"There is no runtime {name!r}.",
        f"Did you mean {near[0]}? {existing}" if near else existing,
        {"runtime": name, "runtimes": list(known)},
    )


def exists(noun: Noun, name: str, other: str) -> WhisperdError:
    """Return `runtime.exists` or `profile.exists`: `name` is the name or the id of `other`."""
    if other == name:
        message = f"A {noun} named {name} already exists."
    else:
        message = f"The name {name} is the id of the {noun} {other}."
    return WhisperdError(
        f"{noun}.exists",
        message,
        f"Choose another name, or change the existing {noun}: `whisperctl {noun}s edit {quote(other)}`.",
        {"name": name},
    )


def check_version(noun: Noun, name: str, version: int, expected: int | None) -> None:
    """Raise `runtime.stale` or `profile.stale` if the version is not the `expected` one."""
    if expected not in (None, version):
        raise WhisperdError(
            f"{noun}.stale",
            f"The {noun} {name} has been changed: it is at version {version}, not {expected}.",
            f"Review it with `whisperctl {noun}s show {quote(name)}`, then retry the change.",
            {"name": name, "version": version, "expected": expected},
        )


def unknown_profile(name: str, names: Iterable[str]) -> WhisperdError:
    """Return `profile.unknown`, with the existing names."""
    known = sorted(names)
    return WhisperdError(
        "profile.unknown",
        f"There is no profile {name!r}.",
        f"Use one of {', '.join(known)}, or create it with `whisperctl profiles create {quote(name)}`."
        if known
        else "Create one with `whisperctl profiles create NAME`.",
        {"name": name, "profiles": known},
    )


def gone_from_profile(profile: str, id_: str, known: Sequence[str]) -> WhisperdError:
    """Return `runtime.unknown` for a profile whose runtime was deleted; lists the `known` ones."""
    return WhisperdError(
        "runtime.unknown",
        f"The runtime of the profile {profile} was deleted.",
        f"Choose another runtime with `whisperctl profiles edit {quote(profile)} --runtime NAME`. "
        f"Existing runtimes: {', '.join(known)}.",
        {"runtime": id_, "runtimes": list(known), "profile": profile},
    )


def failed(error: WhisperdError, name: str, others: Sequence[str]) -> WhisperdError:
    """Return the error for those waiting for a runtime that failed; `others` could be used instead."""
    failure = error.copy()
    failure.data.update(runtime=name, runtimes=list(others))
    if others:
        failure.fix = f"{failure.fix} Or use another runtime: {', '.join(others)}."
    return failure


def model_in_use(model: str, name: str, status: str, *, is_default: bool) -> WhisperdError:
    """Return `model.in_use`: the runtime `name` has the model's files open."""
    unload = f"`whisperctl runtimes unload {quote(name)}`"
    return WhisperdError(
        "model.in_use",
        f"The model {model} is in use: its runtime {name} is {status}.",
        f"Make another runtime the default with `whisperctl runtimes default NAME`, then run {unload}."
        if is_default
        else f"Unload the runtime first: {unload}.",
    )


def no_backend() -> WhisperdError:
    """Return `backend.none`: nothing installed can run a model."""
    return WhisperdError(
        "backend.none",
        "No backend is installed.",
        "Install one in whisperd's environment: `pip install whisperd-ctranslate2`.",
    )


def not_saved(name: str) -> WhisperdError:
    """Return `runtime.not_saved`: the runtime was created for a job that named its model."""
    return WhisperdError(
        "runtime.not_saved",
        f"The runtime {name} is not saved: it was created for a job that named its model.",
        f"Create a saved one: `whisperctl runtimes create NAME --model {quote(name)}`.",
        {"runtime": name},
    )


def cancelled(name: str) -> WhisperdError:
    """Return `runtime.cancelled`: the load that a job waited for was cancelled."""
    return WhisperdError(
        "runtime.cancelled",
        f"Loading the runtime {name} was cancelled.",
        "Load the runtime again, or submit the job again.",
        {"runtime": name},
    )
