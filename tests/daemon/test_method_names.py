"""The complete list of methods: no function becomes a method by accident."""

from __future__ import annotations

from whisperd.daemon.methods import METHODS

NAMED = {
    "calibration": "forget run show",
    "daemon": "config metrics reload status stop",
    "doctor": "check",
    "events": "subscribe unsubscribe",
    "hardware": "show",
    "jobs": "cancel clear finish list push result retry show submit wait",
    "models": "available import list path pull recommend remove show verify",
    "natives": "install list path prune remove rollback upgrade verify",
    "profiles": "create delete edit list show",
    "runtimes": "cancel create default delete disable edit enable list load prepare show unload",
    "session": "hello ping",
    "transcripts": "search",
    "uploads": "append create delete",
    "watch": "add edit list log pause remove resume retry scan show",
}


def test_the_daemon_has_exactly_these_methods() -> None:
    assert set(METHODS) == {f"{noun}.{verb}" for noun, verbs in NAMED.items() for verb in verbs.split()}
