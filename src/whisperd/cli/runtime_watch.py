"""`whisperctl runtimes list --watch`: show runtimes as they change, until interrupted.

On a terminal, the table is redrawn in place. In a pipe, a row is added for each changed runtime, or with
`--json` a line with the runtime.
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
"""How often to refresh what no event reports: memory, leases, the time since the last use."""
IGNORED = ("memory", "last_used")
"""Fields that change all the time: a change of these alone is not worth a line."""


def watch(client: Client, *, as_json: bool) -> NoReturn:
    """Show the runtimes continually. Raises `daemon.connection_lost` when the daemon ends."""
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
        while event is not None:  # those that have already arrived are covered by the next list
            event = client.next_event(0)


def changes(before: list[Map], runtimes: list[Map]) -> list[Map]:
    """Return the changed runtimes; deleted ones have the field `deleted`."""
    known = {one["id"]: one for one in before}
    changed = [one for one in runtimes if _compared(one) != _compared(known.pop(one["id"], {}))]
    return changed + [{**one, "deleted": True} for one in known.values()]


def _add_rows(before: list[Map] | None, runtimes: list[Map]) -> None:
    """Print a row for each changed runtime, aligned with all others; the header only the first time."""
    changed = changes(before or [], runtimes)
    shown = [*runtimes, *(one for one in changed if one not in runtimes)]
    header, *rows = runtime_table(shown, datetime.now(UTC), columns(sys.stdout))
    lines = [row for one, row in zip(shown, rows, strict=True) if one in changed]
    for line in lines if before is not None else [header, *lines]:
        print(line, flush=True)


def _compared(runtime: Map) -> Map:
    return {name: value for name, value in runtime.items() if name not in IGNORED}
