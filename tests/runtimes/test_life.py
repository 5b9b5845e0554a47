"""The life of a runtime: every event in every state, and thousands of event sequences."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fuzzing import examples
from whisperd.runtimes.life import (
    ACTIONS,
    STATUSES,
    Action,
    Effect,
    Event,
    Life,
    Lives,
    Refused,
    refusal,
    step,
)

# For each action: the resulting status for each initial status of an enabled runtime that is neither the
# default nor protected nor leased. If its host is told to end, the status after it has ended.
U, D, G, L, F, C = STATUSES
TABLE: dict[Action, tuple[str, ...]] = {
    #          unloaded downloading loading loaded failed cancelled
    "prepare": (D, D, G, L, D, D),
    "load": (D, D, G, L, D, D),
    "cancel": (U, C, C, L, F, C),
    "unload": (U, U, U, U, U, U),
    "default": (D, D, G, L, D, D),
    "enable": (U, D, G, L, F, C),
    "disable": (U, C, C, U, F, C),
    "edit": (U, D, D, D, U, U),
    "delete": (U, U, U, U, F, C),
}


def after(life: Life, *events: str) -> Life:
    """Return the life after these events; a host that is told to end does so."""
    for event in events:
        life, effect = step(life, event)  # type: ignore[arg-type]
        if effect == "stop":
            life, _ = step(life, "ended")
    return life


def lives() -> list[Life]:
    """Return every valid life, with few leases."""
    all_lives = itertools.starmap(
        Life,
        itertools.product(
            STATUSES,
            ("prepared", "loaded"),
            (None, "unloaded", "cancelled", "reloaded", "deleted"),
            (0, 2),
            (0, 1),
            *([(False, True)] * 6),
        ),
    )
    return [life for life in all_lives if is_valid(life)]


def is_valid(life: Life) -> bool:
    """Whether the fields of a life are consistent."""
    return all(
        (
            life.users == 0 or (life.leases > 0 and life.is_ready),
            not life.is_outdated or life.status == "loaded",
            not life.is_restarting or life.status == "loaded",
            life.ending in (None, "deleted") or life.is_hosted,
            not life.is_default or (life.is_enabled and not life.is_standby and life.ending != "deleted"),
        )
    )


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_in_every_status(action: Action) -> None:
    assert tuple(after(Life(status), action).status for status in STATUSES) == TABLE[action]


@pytest.mark.parametrize("event", get_args(Event))
def test_every_event_in_every_state_has_a_valid_result(event: str) -> None:
    """The result is a valid life or a refusal with a code."""
    for life in lives():
        try:
            became, effect = step(life, event)  # type: ignore[arg-type]
        except Refused as refused:
            assert refused.code.startswith(("runtime.", "internal.error"))
            continue
        assert is_valid(became), (life, event)
        assert effect != "start" or (not life.is_hosted or event in ("failed", "ended")), (life, event)
        assert effect != "stop" or (became.is_hosted and became.ending is not None), (life, event)
        assert became.is_hosted or became.ending in (None, life.ending, "deleted")


def test_a_dead_worker_is_reported_as_loading() -> None:
    died = after(Life("loaded"), "died")
    assert (died.status, died.reported_status) == ("loaded", "loading")
    assert after(died, "restarted") == Life("loaded")
    assert after(died, "cancel") == Life("cancelled")
    assert after(died, "unload") == after(died, "idle") == Life("unloaded")
    assert after(died, "failed") == Life("failed")
    assert after(replace(died, leases=1, users=1), "cancel").reported_status == "loading"
    for event in ("restarted", "ready"):
        assert refusal(Life("loaded"), event) == "internal.error"  # type: ignore[arg-type]


@pytest.mark.parametrize("action", ["unload", "disable", "delete"])
def test_the_default_cannot_be_removed(action: Action) -> None:
    for status in STATUSES:
        assert refusal(Life(status, is_default=True), action) == "runtime.is_default"


@pytest.mark.parametrize("action", ["unload", "delete"])
def test_a_leased_runtime_cannot_be_removed(action: Action) -> None:
    for status in STATUSES:
        assert refusal(Life(status, leases=1), action) == "runtime.in_use"


def test_a_protected_runtime_is_not_deleted() -> None:
    for status in STATUSES:
        assert refusal(Life(status, is_protected=True), "delete") == "runtime.is_protected"


@pytest.mark.parametrize("event", ["prepare", "load", "default", "lease"])
def test_a_disabled_runtime_accepts_no_requests(event: str) -> None:
    for status in STATUSES:
        assert refusal(Life(status, is_enabled=False), event) == "runtime.disabled"  # type: ignore[arg-type]


@pytest.mark.parametrize("event", [*ACTIONS, "lease"])
def test_a_runtime_being_deleted_accepts_no_requests(event: str) -> None:
    assert refusal(Life("loaded", ending="deleted"), event) == "runtime.unknown"  # type: ignore[arg-type]


def test_a_typical_life() -> None:
    life, effect = step(after(Life(), "lease"), "load")
    assert (life.status, effect) == ("downloading", "start")
    life = after(life, "prepared", "ready")
    assert life.status == "loaded"
    assert not life.is_idle
    life = after(life, "use", "done", "release")
    assert life.is_idle
    assert step(life, "idle")[1] == "stop"
    assert after(life, "idle").status == "unloaded"


def test_a_preparation_starts_no_worker_unless_a_load_is_requested() -> None:
    preparing = after(Life(), "lease", "prepare")
    assert refusal(preparing, "prepared") == "internal.error"
    assert after(preparing, "ended").status == "unloaded"
    assert after(preparing, "load", "prepared").status == "loading"


def test_a_load_without_waiters_is_given_up() -> None:
    loading = after(Life(leases=2), "load", "prepared", "release")
    assert loading.status == "loading"
    assert after(loading, "release").status == "cancelled"


def test_a_default_is_loaded_even_if_nobody_waits_for_it() -> None:
    loading = after(Life(leases=1, is_default=True), "load", "prepared", "release")
    assert (loading.status, loading.ending) == ("loading", None)


def test_an_edit_waits_for_running_batches() -> None:
    used = after(Life("loaded", leases=2), "use", "edit")
    assert (used.status, used.ending, used.is_usable) == ("loaded", None, False)
    life, effect = step(used, "done")
    assert (life.ending, effect) == ("reloaded", "stop")
    life, effect = step(life, "ended")
    assert (life.status, life.is_outdated, effect) == ("downloading", False, "start")


def test_a_disabled_runtime_ends_with_its_last_lease() -> None:
    leased = after(Life("loaded", leases=1), "disable")
    assert leased.status == "loaded"
    assert after(leased, "release").status == "unloaded"


def test_a_worker_that_keeps_dying_is_a_failure() -> None:
    life = after(Life("loaded", leases=1), "use", "failed")
    assert (life.status, life.users, life.leases) == ("failed", 0, 1)


def test_a_default_that_is_being_unloaded_is_loaded_again() -> None:
    life, effect = step(replace(Life("loaded"), ending="unloaded"), "default")
    assert (life.ending, effect) == ("reloaded", None)


def test_a_failed_default_that_is_edited_is_tried_again() -> None:
    assert step(Life("failed", is_default=True), "edit") == (
        Life("downloading", is_default=True),
        "start",
    )


def three_lives() -> Lives:
    lives = Lives()
    for id, life in {
        "old": Life("loaded", is_default=True),
        "new": Life(),
        "third": Life(),
    }.items():
        lives.add(id, life)
    return lives


def run(lives: Lives, id: str, *events: str) -> None:
    for event in events:
        lives.apply(id, event)  # type: ignore[arg-type]


def test_the_old_default_answers_until_the_new_one_is_ready() -> None:
    lives = three_lives()
    assert lives.apply("new", "default") == {"new": "start"}
    assert (lives.default, lives.answering) == ("new", "old")
    assert not lives["old"].is_idle
    run(lives, "new", "prepared")
    assert lives.answering == "old"
    run(lives, "new", "ready")
    assert (lives.default, lives.answering) == ("new", "new")
    assert lives["old"].is_idle


@pytest.mark.parametrize("end", ["failed", "cancel"])
def test_a_new_default_that_fails_ends_the_standby(end: str) -> None:
    lives = three_lives()
    run(lives, "new", "default", end)
    assert (lives.default, lives.answering) == ("new", "new")
    assert lives["old"].is_idle


def test_the_standby_stays_when_the_default_changes_again() -> None:
    lives = three_lives()
    run(lives, "new", "default")
    assert lives.apply("third", "default") == {"third": "start", "new": "stop"}
    assert (lives.default, lives.answering) == ("third", "old")
    run(lives, "old", "default")
    assert (lives.default, lives.answering) == ("old", "old")


def test_a_disabled_runtime_is_no_standby() -> None:
    lives = three_lives()
    run(lives, "old", "lease")
    run(lives, "new", "default")
    run(lives, "old", "disable")
    assert (lives.default, lives.answering) == ("new", "new")
    assert lives["old"].status == "loaded"


def test_an_unloaded_default_is_no_standby() -> None:
    lives = Lives()
    lives.add("old", Life("failed", is_default=True))
    lives.add("new", Life())
    run(lives, "new", "default")
    assert lives.answering == "new"


class Household(RuleBasedStateMachine):
    """Three runtimes, and a model of the world that has a host exactly where effects demand one."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = Lives()
        self.hosts: dict[str, str] = {}
        """The stage of each host: `preparing`, `loading`, `serving`, or `ending` once it is told to end."""
        self.leases: dict[str, int] = {}
        self.users: dict[str, int] = {}

    ids = st.sampled_from(["a", "b", "c"])

    @initialize()
    def begin(self) -> None:
        for id in ("a", "b", "c"):
            self.lives.add(id, Life(is_default=id == "a"))
            self.leases[id] = self.users[id] = 0

    def apply(self, id: str, event: str) -> bool:
        """Apply an event; return whether it was accepted."""
        before = {one: self.lives[one] for one in self.leases}
        try:
            effects = self.lives.apply(id, event)  # type: ignore[arg-type]
        except Refused:
            assert before == {one: self.lives[one] for one in self.leases}, "a refusal changes nothing"
            return False
        for other, effect in effects.items():
            self.carry_out(other, effect)
        return True

    def carry_out(self, id: str, effect: Effect) -> None:
        if effect == "start":
            assert id not in self.hosts, "a second host"
            self.hosts[id] = "preparing"
        else:
            assert self.hosts[id] != "ending", "told to end twice"
            if self.hosts[id] == "serving" and self.lives[id].ending != "reloaded":
                assert self.leases[id] == 0, "a leased runtime is unloaded"
            assert self.users[id] == 0, "a batch is running on it"
            self.hosts[id] = "ending"

    @rule(id=ids, action=st.sampled_from([*ACTIONS, "idle", "evict"]))
    def act(self, id: str, action: str) -> None:
        if action in ("idle", "evict") and not self.lives[id].is_idle:
            return
        if self.apply(id, action) and action == "delete":
            self.finish(id)
            self.lives.remove(id)
            self.lives.add(id, Life())  # as a new one

    @rule(id=ids)
    def lease(self, id: str) -> None:
        if self.apply(id, "lease"):
            self.leases[id] += 1

    @rule(id=ids)
    def release(self, id: str) -> None:
        if self.leases[id] > self.users[id]:
            self.leases[id] -= 1
            assert self.apply(id, "release")

    @rule(id=ids)
    def use(self, id: str) -> None:
        if self.lives[id].is_usable and self.leases[id] > self.users[id]:
            assert self.hosts[id] == "serving"
            self.users[id] += 1
            assert self.apply(id, "use")

    @rule(id=ids)
    def done(self, id: str) -> None:
        if self.users[id]:
            self.users[id] -= 1
            assert self.apply(id, "done")

    @rule(id=ids, fails=st.booleans())
    def advance(self, id: str, fails: bool) -> None:
        """Let the host advance by one stage, or fail."""
        match self.hosts.get(id), fails:
            case None, _:
                return
            case "ending", _:
                self.finish(id)
            case _, True:
                self.end(id, "failed")
            case "preparing", _ if self.lives[id].goal == "prepared":
                self.end(id, "ended")
            case "preparing", _:
                self.hosts[id] = "loading"
                assert self.apply(id, "prepared")
            case "loading", _:
                self.hosts[id] = "serving"
                assert self.apply(id, "ready")

    def finish(self, id: str) -> None:
        if id in self.hosts:
            assert self.hosts[id] == "ending"
            self.end(id, "ended")

    def end(self, id: str, event: str) -> None:
        del self.hosts[id]
        self.users[id] = 0
        assert self.apply(id, event)

    @invariant()
    def there_is_one_default_and_it_is_enabled(self) -> None:
        defaults = [id for id in self.leases if self.lives[id].is_default]
        assert len(defaults) == 1 and self.lives[defaults[0]].is_enabled

    @invariant()
    def the_status_agrees_with_the_worker(self) -> None:
        stage = {"downloading": "preparing", "loading": "loading", "loaded": "serving"}
        for id in self.leases:
            life = self.lives[id]
            host = self.hosts.get(id)
            assert (life.ending is not None) == (host == "ending")
            if host != "ending":
                assert stage.get(life.status) == host

    @invariant()
    def leases_are_counted(self) -> None:
        for id in self.leases:
            assert (self.lives[id].leases, self.lives[id].users) == (self.leases[id], self.users[id])

    @invariant()
    def the_answering_runtime_is_the_default_or_loaded(self) -> None:
        answering = self.lives.answering
        assert self.lives[answering].is_enabled
        assert answering == self.lives.default or self.lives[answering].is_ready

    @invariant()
    @precondition(lambda self: self.lives)
    def loads_without_waiters_are_of_enabled_runtimes(self) -> None:
        for id in self.leases:
            life = self.lives[id]
            if not (life.is_default or life.leases or life.ending) and life.status in (
                "downloading",
                "loading",
            ):
                assert life.is_enabled


Household.TestCase.settings = settings(max_examples=examples(300), stateful_step_count=60, deadline=None)
TestHousehold = Household.TestCase
