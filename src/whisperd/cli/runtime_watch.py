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
    from typing import Any

    from whisperd.client import Client

    Map = dict[str, Any]

__all__ = ["changes", "watch"]

REFRESH_S = 2.0
"""How often it is looked at what no event tells of: memory, leases, the time that goes by."""
UNTOLD = ("memory", "last_used")
"""What is no change worth a line: it changes all the time."""


def watch(client: Client, *, as_json: bool) -> NoReturn:
    """Show the runtimes again and again. Raises `daemon.connection_lost` once the daemon is gone."""
    client.request("events.subscribe", topics=["runtimes"])
    screen = Repainted() if Repainted.is_possible(sys.stdout) else None
    known: list[Map] | None = None
    while True:
        runtimes = client.runtimes.list()
        if as_json:
            for one in changes(known or [], runtimes):
                print_line(one)
        elif screen:
            screen.show(runtime_table(runtimes, datetime.now(UTC), screen.room))
        else:
            _add_rows(known, runtimes)
        known = runtimes
        event = client.next_event(time.monotonic() + REFRESH_S)
        while event is not None:  # those that have come meanwhile are part of what is shown next
            event = client.next_event(0)


def changes(before: list[Map], runtimes: list[Map]) -> list[Map]:
    """Those that have changed since; those that are gone have `deleted`."""
    known = {one["id"]: one for one in before}
    changed = [one for one in runtimes if _told(one) != _told(known.pop(one["id"], {}))]
    return changed + [{**one, "deleted": True} for one in known.values()]


def _add_rows(before: list[Map] | None, runtimes: list[Map]) -> None:
    """A row for each that has changed, as wide as all of them need; the header only before the first."""
    changed = changes(before or [], runtimes)
    shown = [*runtimes, *(one for one in changed if one not in runtimes)]
    header, *rows = runtime_table(shown, datetime.now(UTC), columns(sys.stdout))
    lines = [row for one, row in zip(shown, rows, strict=True) if one in changed]
    for line in lines if before is not None else [header, *lines]:
        print(line, flush=True)


def _told(runtime: Map) -> Map:
    return {name: value for name, value in runtime.items() if name not in UNTOLD}
