"""The lifecycle of a runtime: a pure state machine.

`step` applies an event to a runtime's state and says what to do with its host, or refuses the event.
`Lives` holds the states of all runtimes, of which exactly one is the default. Neither uses a clock, a
process or a file. docs/runtimes.md shows the table of all transitions.

A runtime is **hosted** while it is downloading, loading or loaded: one task, its host, then prepares what
it needs, starts its worker and ends it. The status follows the host: it is `loaded` until the worker
process has ended, even after that was told to end (`ending`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from whisperd.rpc.events import RuntimeStatusName

__all__ = [
    "ACTIONS",
    "STATUSES",
    "Effect",
    "Ending",
    "Event",
    "Life",
    "Lives",
    "Refused",
    "refusal",
    "step",
]

STATUSES: tuple[RuntimeStatusName, ...] = get_args(RuntimeStatusName)
HOSTED = ("downloading", "loading", "loaded")

Action = Literal["prepare", "load", "cancel", "unload", "default", "enable", "disable", "edit", "delete"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""Requests by users. `edit` is a change that requires the model to be reloaded."""

Event = Literal[
    Action,
    "not default",  # another runtime has become the default
    "lease",
    "release",
    "use",  # a lease holder begins to compute on the worker
    "done",
    "prepared",  # the host has everything that the worker needs
    "ready",  # the worker has loaded the model
    "died",  # the worker has died, and the host starts another one
    "restarted",  # that one has loaded the model
    "fallback",  # the worker could not load the model, and the host prepares the next variant
    "failed",  # the host has ended with an error
    "ended",  # the host has ended
    "idle",  # unused for its keep-alive time
    "evict",  # another runtime needs its memory
    "relieve",  # the whole computer is short of memory: even the default is unloaded if unused
]

Effect = Literal["start", "stop"]
"""What to do: start a host for the runtime, or tell its host to end."""

Ending = Literal["unloaded", "cancelled", "reloaded", "deleted"]
"""Why a host was told to end."""


class Refused(Exception):
    """The event is not allowed in this state; `code` is the error code for the user."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Life:
    """The state of a runtime."""

    status: RuntimeStatusName = "unloaded"
    goal: Literal["prepared", "loaded"] = "loaded"
    """How far the host goes."""
    ending: Ending | None = None
    """Set from when a host is told to end until it has ended."""
    leases: int = 0
    """The number of lease holders, which keep it from being unloaded."""
    users: int = 0
    """How many of them are computing on it."""
    is_outdated: bool = False
    """Whether the worker was started before the last edit."""
    is_restarting: bool = False
    """Whether the worker has died and the host is starting another one."""
    is_enabled: bool = True
    is_protected: bool = False
    is_default: bool = False
    is_standby: bool = False
    """Whether it was the default, and serves the default's requests until the new one is loaded."""

    @property
    def reported_status(self) -> RuntimeStatusName:
        """The status as reported to clients: `loading` while a worker that died is restarted."""
        return "loading" if self.is_restarting else self.status

    @property
    def is_hosted(self) -> bool:
        """Whether it has a host."""
        return self.status in HOSTED

    @property
    def is_coming(self) -> bool:
        """Whether its host is going to load it."""
        is_reloading = self.ending == "reloaded"
        return is_reloading or (self.status in ("downloading", "loading") and self.ending is None)

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded and its host was not told to end."""
        return self.status == "loaded" and self.ending is None

    @property
    def is_settled(self) -> bool:
        """Whether it is loaded, and neither restarting nor ending."""
        return self.is_ready and not self.is_restarting

    @property
    def is_usable(self) -> bool:
        """Whether a lease holder may begin to compute on it."""
        return self.is_ready and not self.is_outdated

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and may be unloaded."""
        return self.is_ready and not (self.leases or self.is_default or self.is_standby)

    @property
    def is_unused(self) -> bool:
        """Whether it is loaded and unused, even if it is the default."""
        return self.is_ready and not self.leases


Step = tuple[Life, Effect | None]


def step(life: Life, event: Event) -> Step:
    """Apply an event; returns the new state and what to do with the host. Raises `Refused`."""
    if code := refusal(life, event):
        raise Refused(code)
    return _TRANSITIONS[event](life)


def refusal(life: Life, event: Event) -> str | None:
    """Return the error code of the first rule that forbids an event, or None."""
    rules = (
        ("runtime.unknown", (*ACTIONS, "lease"), life.ending == "deleted"),
        ("runtime.disabled", ("default", "lease"), not life.is_enabled),
        ("runtime.disabled", ("prepare", "load"), not (life.is_enabled or life.leases)),
        ("runtime.is_default", ("unload", "disable", "delete"), life.is_default),
        ("runtime.is_protected", ("delete",), life.is_protected),
        ("runtime.in_use", ("unload", "delete"), life.leases > 0),
        # These can only be caused by a bug.
        ("internal.error", ("release",), life.leases <= life.users),
        ("internal.error", ("use",), not life.is_usable or life.users >= life.leases),
        ("internal.error", ("done",), life.users == 0),
        ("internal.error", ("prepared",), (life.status, life.goal) != ("downloading", "loaded")),
        ("internal.error", ("ready", "fallback"), life.status != "loading"),
        ("internal.error", ("died",), life.status != "loaded"),
        ("internal.error", ("restarted",), not life.is_restarting),
        ("internal.error", ("failed", "ended"), not life.is_hosted),
        ("internal.error", ("idle", "evict"), not life.is_idle),
        ("internal.error", ("relieve",), not life.is_unused),
    )
    return next((code for code, events, applies in rules if applies and event in events), None)


def _started(life: Life, goal: Literal["prepared", "loaded"]) -> Step:
    return replace(life, status="downloading", goal=goal, ending=None, is_outdated=False), "start"


def _prepare(life: Life) -> Step:
    return (life, None) if life.is_hosted else _started(life, "prepared")


def _load(life: Life) -> Step:
    if not life.is_hosted:
        return _started(life, "loaded")
    # The default is reloaded even if it is just being unloaded; callers of other runtimes retry.
    ending = "reloaded" if life.is_default and life.ending else life.ending
    return replace(life, goal="loaded", ending=ending), None


def _cancel(life: Life) -> Step:
    is_loading = life.reported_status in ("downloading", "loading")
    # Users are computing, or wait for their worker to be restarted.
    return _stopped(life, "cancelled") if is_loading and not life.users else (life, None)


def _unload(life: Life) -> Step:
    return _stopped(life, "unloaded") if life.is_hosted else (replace(life, status="unloaded"), None)


def _delete(life: Life) -> Step:
    return _stopped(life, "deleted") if life.is_hosted else (replace(life, ending="deleted"), None)


def _stopped(life: Life, ending: Ending) -> Step:
    """Tell the host to end. If it was told already, only the reason changes."""
    return replace(life, ending=ending), None if life.ending else "stop"


def _abandoned(life: Life) -> Step:
    """Stop what no client needs any longer: an unleased load, or a runtime that is disabled."""
    if life.leases or life.is_default or life.ending or not life.is_hosted:
        return life, None
    if life.status != "loaded":
        return _stopped(life, "cancelled")
    return (life, None) if life.is_enabled else _stopped(life, "unloaded")


def _edit(life: Life) -> Step:
    if life.status == "loaded":
        return _reloaded_if_outdated(replace(life, is_outdated=True))
    if life.is_hosted:
        return _stopped(life, "reloaded") if life.ending is None else (life, None)
    return _started(life, "loaded") if life.is_default else (replace(life, status="unloaded"), None)


def _reloaded_if_outdated(life: Life) -> Step:
    if life.is_outdated and life.users == 0 and life.ending is None:
        return _stopped(life, "reloaded")
    return life, None


def _ended(life: Life, *, has_failed: bool = False) -> Step:
    ended = replace(life, ending=None, is_outdated=False, is_restarting=False, users=0)
    if life.ending == "deleted":
        return replace(ended, status="unloaded", ending="deleted"), None
    if life.ending == "reloaded" and (life.is_enabled or life.leases):
        return _started(ended, life.goal)
    if life.ending == "cancelled":
        return replace(ended, status="cancelled"), None
    if life.ending is None and has_failed:
        return replace(ended, status="failed"), None
    return replace(ended, status="unloaded"), None


_TRANSITIONS: Mapping[Event, Callable[[Life], Step]] = {
    "prepare": _prepare,
    "load": _load,
    "cancel": _cancel,
    "unload": _unload,
    "default": lambda life: _load(replace(life, is_default=True, is_standby=False)),
    "enable": lambda life: (replace(life, is_enabled=True), None),
    "disable": lambda life: _abandoned(replace(life, is_enabled=False)),
    "edit": _edit,
    "delete": _delete,
    "not default": lambda life: _abandoned(replace(life, is_default=False)),
    "lease": lambda life: (replace(life, leases=life.leases + 1), None),
    "release": lambda life: _abandoned(replace(life, leases=life.leases - 1)),
    "use": lambda life: (replace(life, users=life.users + 1), None),
    "done": lambda life: _reloaded_if_outdated(replace(life, users=life.users - 1)),
    "prepared": lambda life: (replace(life, status="loading"), None),
    "ready": lambda life: (replace(life, status="loaded"), None),
    "died": lambda life: (replace(life, is_restarting=True), None),
    "restarted": lambda life: (replace(life, is_restarting=False), None),
    "fallback": lambda life: (replace(life, status="downloading"), None),
    "failed": lambda life: _ended(life, has_failed=True),
    "ended": _ended,
    "idle": lambda life: _stopped(life, "unloaded"),
    "evict": lambda life: _stopped(life, "unloaded"),
    "relieve": lambda life: _stopped(life, "unloaded"),
}


class Lives:
    """The states of all runtimes, by id. Exactly one is the default, once there is any."""

    def __init__(self) -> None:
        self._lives: dict[str, Life] = {}

    def __getitem__(self, id: str) -> Life:
        return self._lives[id]

    def add(self, id: str, life: Life) -> None:
        """Add a runtime."""
        self._lives[id] = life

    def remove(self, id: str) -> None:
        """Remove a runtime."""
        del self._lives[id]

    def protect(self, id: str, is_protected: bool) -> None:
        """Set whether a runtime refuses to be deleted."""
        self._lives[id] = replace(self._lives[id], is_protected=is_protected)

    def cancel_delete(self, id: str) -> None:
        """Undo the event `delete`, since the runtime is not deleted after all."""
        life = self._lives[id]
        self._lives[id] = replace(life, ending="unloaded" if life.is_hosted else None)

    @property
    def default(self) -> str:
        """The id of the default."""
        return next(id for id, life in self._lives.items() if life.is_default)

    @property
    def answering(self) -> str:
        """The id of the runtime for unnamed requests: the default, or the old one until it is ready."""
        return next((id for id, life in self._lives.items() if life.is_standby), self.default)

    def apply(self, id: str, event: Event) -> Mapping[str, Effect]:
        """Apply an event; returns what to do with which host. Raises `Refused`, which changes nothing."""
        effects: dict[str, Effect] = {}
        if event == "default" and not self._lives[id].is_default:
            self._change_default(id, effects)
        else:
            self._step(id, event, effects)
        self._dismiss_standby()
        return effects

    def _change_default(self, id: str, effects: dict[str, Effect]) -> None:
        old = self.default
        answering = self.answering
        self._step(id, "default", effects)
        self._step(old, "not default", effects)
        for other, life in self._lives.items():
            is_standby = other == answering != id and life.is_ready
            self._lives[other] = replace(life, is_standby=is_standby)

    def _step(self, id: str, event: Event, effects: dict[str, Effect]) -> None:
        self._lives[id], effect = step(self._lives[id], event)
        if effect is not None:
            effects[id] = effect

    def _dismiss_standby(self) -> None:
        is_coming = any(life.is_default and life.is_coming for life in self._lives.values())
        for id, life in self._lives.items():
            if life.is_standby and not (is_coming and life.is_ready and life.is_enabled):
                self._lives[id] = replace(life, is_standby=False)
