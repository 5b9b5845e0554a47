"""The unfinished files of a folder: settling, queued, in progress or waiting for a retry. Pure.

Callers pass the time of a monotonic clock.
"""

from __future__ import annotations

from whisperd.watch.ledger import Seen
from whisperd.watch.settling import Settling

__all__ = ["Pending"]


class Pending:
    """The state of each unfinished file, by its path within the folder."""

    def __init__(self, settle_s: float) -> None:
        self.settling = Settling(settle_s)
        self.queue: dict[str, Seen] = {}
        """Settled files that wait for their turn."""
        self.in_progress: dict[str, bool] = {}
        """Files in progress, and whether each was seen again meanwhile."""
        self.settled_s: dict[str, float] = {}
        """When each unfinished file settled."""
        self._retries_s: dict[str, float] = {}
        """When to check each failed file again."""

    @property
    def waiting(self) -> int:
        """The number of files that wait to settle, for their turn, or for a retry."""
        return len(self.queue) + len(self.settling) + len(self._retries_s)

    def clear(self) -> None:
        """Drop all files that are settling or queued."""
        self.queue.clear()
        self.settling.clear()
        self.settled_s.clear()

    def drop(self, path: str) -> None:
        """Drop the file at a path."""
        self.queue.pop(path, None)
        self.settling.forget(path)
        self._retries_s.pop(path, None)
        self.settled_s.pop(path, None)

    def observe(self, seen: Seen, now_s: float, wall_ns: int | None, *, moved_in: bool) -> None:
        """Note a file of unknown content; for the arguments see `Settling.observe`."""
        if self.defers(seen.path):
            return
        if self.settling.observe(seen, now_s, wall_ns, moved_in=moved_in) == "settled":
            self.enqueue(seen, now_s)
        else:  # it changed while it was queued
            self.queue.pop(seen.path, None)
            self.settled_s.pop(seen.path, None)

    def enqueue(self, seen: Seen, now_s: float) -> None:
        """Queue a settled file that needs work."""
        self.settled_s.setdefault(seen.path, now_s)
        self._retries_s.pop(seen.path, None)
        if not self.defers(seen.path):
            self.queue[seen.path] = seen

    def postpone(self, seen: Seen, now_s: float) -> None:
        """Let a file settle again that is still being written to."""
        self.settled_s.pop(seen.path, None)
        self.settling.postpone(seen, now_s)

    def retry(self, path: str, moment_s: float) -> None:
        """Check a file again at this time."""
        self._retries_s[path] = moment_s

    def due(self, now_s: float) -> list[str]:
        """Return the files to check again now."""
        retries = [path for path, moment_s in self._retries_s.items() if moment_s <= now_s]
        for path in retries:
            del self._retries_s[path]
        return [*self.settling.due(now_s), *retries]

    def next_look_s(self) -> float:
        """Return when the next file is due for a check; infinity if none is."""
        return min([*self._retries_s.values(), self.settling.next_look_s()])

    def defers(self, path: str) -> bool:
        """Whether a file is in progress, and so may change its ledger record at any moment.

        If it is, it is checked again once that work has ended.
        """
        if path in self.in_progress:
            self.in_progress[path] = True
        return path in self.in_progress

    def release(self, path: str) -> bool:
        """Note that the work on a file has ended; return whether to check it again."""
        return self.in_progress.pop(path, False)

    def settled_for_s(self, path: str, now_s: float) -> float | None:
        """Return how long ago a finished file settled, and forget it; None if unknown."""
        settled_s = self.settled_s.pop(path, None)
        return None if settled_s is None else now_s - settled_s
