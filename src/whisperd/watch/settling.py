"""Decide when a file has settled, that is, when nothing seems to write to it any longer. Pure.

A file has settled when its size and modification time have stayed the same for a while. How long depends on
the file: one that grows in fits and starts has to stay unchanged for twice its longest pause so far.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

from whisperd.watch.ledger import Seen

__all__ = ["MOVED_IN_S", "Settling"]

MOVED_IN_S: Final = 0.3
"""How long a file that seems to have been renamed into place has to stay unchanged."""
LONGEST_QUIET_S: Final = 600.0
REMEMBERED_PAUSES: Final = 1000

Verdict = Literal["settled", "wait", "empty"]


@dataclass(slots=True)
class _Tracked:
    seen: Seen
    since_s: float
    quiet_s: float
    look_at_s: float


class Settling:
    """The files of a folder that were found but have not settled yet."""

    def __init__(self, settle_s: float) -> None:
        self.settle_s = settle_s
        self._tracked: dict[str, _Tracked] = {}
        self._pauses: OrderedDict[str, float] = OrderedDict()
        """The longest pause of each file before it changed again."""

    def __len__(self) -> int:
        return len(self._tracked)

    def observe(self, seen: Seen, now_s: float, wall_ns: int | None, *, moved_in: bool = False) -> Verdict:
        """Note the state of a file. Once settled, it is no longer tracked.

        A file last modified long before `wall_ns` counts as settled when first seen. `wall_ns` is None on a
        network, where some programs set a file's time and size before its content. An empty file is either
        unfinished or a placeholder for one stored elsewhere: it never settles.
        """
        before = self._tracked.get(seen.path)
        if seen.identity.size_bytes == 0:
            self.forget(seen.path)
            return "empty"
        if before is None:
            quiet_s = self._quiet_s(seen.path, moved_in=moved_in)
            is_old = wall_ns is not None and wall_ns - seen.identity.modified_ns >= quiet_s * 1e9
            if is_old and not moved_in:
                return "settled"
            self._track(seen, now_s, quiet_s)
            return "wait"
        if seen.identity != before.seen.identity:
            self._note_pause(seen.path, now_s - before.since_s)
            self._track(seen, now_s, self._quiet_s(seen.path))
            return "wait"
        if now_s - before.since_s >= before.quiet_s:
            self.forget(seen.path)
            return "settled"
        return "wait"

    def postpone(self, seen: Seen, now_s: float) -> None:
        """Track a settled file again that is open for writing, or that changed while it was read."""
        self._track(seen, now_s, self._quiet_s(seen.path))

    def forget(self, path: str) -> None:
        """Stop tracking a file that was deleted or is of no interest."""
        self._tracked.pop(path, None)

    def clear(self) -> None:
        """Stop tracking all files."""
        self._tracked.clear()

    def due(self, now_s: float) -> list[str]:
        """Return the files to check again now."""
        due = [tracked for tracked in self._tracked.values() if tracked.look_at_s <= now_s]
        for tracked in due:
            tracked.look_at_s = now_s + self.settle_s  # in case it is not checked now
        return [tracked.seen.path for tracked in due]

    def next_look_s(self) -> float:
        """Return when the next file is due for a check; infinity if none is."""
        return min((tracked.look_at_s for tracked in self._tracked.values()), default=math.inf)

    def _track(self, seen: Seen, now_s: float, quiet_s: float) -> None:
        self._tracked[seen.path] = _Tracked(seen, now_s, quiet_s, now_s + quiet_s)

    def _quiet_s(self, path: str, *, moved_in: bool = False) -> float:
        if moved_in:
            return min(self.settle_s, MOVED_IN_S)
        return max(self.settle_s, min(2 * self._pauses.get(path, 0.0), LONGEST_QUIET_S))

    def _note_pause(self, path: str, pause_s: float) -> None:
        self._pauses[path] = max(pause_s, self._pauses.pop(path, 0.0))
        while len(self._pauses) > REMEMBERED_PAUSES:
            self._pauses.popitem(last=False)
