"""`whisperctl runtimes list --watch`: the runtimes as they change, until interrupted.

On a terminal the table is painted again in its place. In a pipe a row is added for each runtime that has
changed, and with `--json` a line with the runtime.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from whisperd.cli.output import Repainted, columns, print_line
from whisperd.cli.runtime_view import runtime_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from whisperd.client import Client

    Map = dict[str, Any]

__all__ = ["Changes", "watch"]

REFRESH_S = 2.0
"""How often it is looked at what no event tells of: memory, leases, the time that goes by."""
UNTOLD = ("memory", "last_used")
"""What is no change worth a line: it changes all the time."""


def watch(client: Client, *, as_json: bool) -> NoReturn:
    """Show the runtimes again and again. Raises `daemon.connection_lost` once the daemon is gone."""
    client.request("events.subscribe", topics=["runtimes"])
    show = _view(as_json=as_json)
    while True:
        show(client.runtimes.list())
        event = client.next_event(time.monotonic() + REFRESH_S)
        while event is not None:  # those that have come meanwhile are part of what is shown next
            event = client.next_event(0)


class Changes:
    """Tells which runtimes have changed since it was asked last; those that are gone have `deleted`."""

    def __init__(self) -> None:
        self._known: dict[str, Map] = {}

    def of(self, runtimes: list[Map]) -> list[Map]:
        """The changed ones of these."""
        known, self._known = self._known, {one["id"]: one for one in runtimes}
        changed = [one for one in runtimes if _told(one) != _told(known.get(one["id"], {}))]
        gone = [{**one, "deleted": True} for id, one in known.items() if id not in self._known]
        return changed + gone


def _view(*, as_json: bool) -> Callable[[list[Map]], None]:
    """What shows the runtimes, here and now."""
    if as_json:
        return _documents(Changes())
    if Repainted.is_possible(sys.stdout):
        return _repainting(Repainted())
    return _rows(Changes())


def _documents(changes: Changes) -> Callable[[list[Map]], None]:
    def show(runtimes: list[Map]) -> None:
        for one in changes.of(runtimes):
            print_line(one)

    return show


def _repainting(screen: Repainted) -> Callable[[list[Map]], None]:
    def show(runtimes: list[Map]) -> None:
        screen.show(runtime_table(runtimes, datetime.now(UTC), screen.room))

    return show


def _rows(changes: Changes) -> Callable[[list[Map]], None]:
    has_header = False

    def show(runtimes: list[Map]) -> None:
        nonlocal has_header
        changed = changes.of(runtimes)
        gone = [one for one in changed if one not in runtimes]
        header, *lines = runtime_table([*runtimes, *gone], datetime.now(UTC), columns(sys.stdout))
        if not has_header:
            print(header)
            has_header = True
        for one, line in zip([*runtimes, *gone], lines, strict=True):
            if one in changed:
                print(line)
        sys.stdout.flush()

    return show


def _told(runtime: Map) -> Map:
    return {name: value for name, value in runtime.items() if name not in UNTOLD}
