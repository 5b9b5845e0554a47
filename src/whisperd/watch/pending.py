"""The files of a folder that are not done yet: they settle, wait for their turn, or are worked on. Pure.

Times are those of a monotonic clock, which is passed in.
"""

from __future__ import annotations

from whisperd.watch.ledger import Seen
from whisperd.watch.settling import Settling

__all__ = ["Pending"]


class Pending:
    """Where each file stands, by its path within the folder."""

    def __init__(self, settle_s: float) -> None:
        self.settling = Settling(settle_s)
        self.queue: dict[str, Seen] = {}
        """What is settled and waits for its turn."""
        self.in_hand: dict[str, bool] = {}
        """What is being worked on, and whether it was seen meanwhile."""
        self.settled_s: dict[str, float] = {}
        """When what is not done yet had settled."""
        self._retries_s: dict[str, float] = {}
        """When what has failed is to be looked at again."""

    @property
    def waiting(self) -> int:
        """How many files wait: to settle, for their turn, or to be tried again."""
        return len(self.queue) + len(self.settling) + len(self._retries_s)

    def clear(self) -> None:
        """Forget all that waits."""
        self.queue.clear()
        self.settling.clear()
        self.settled_s.clear()

    def drop(self, path: str) -> None:
        """Nothing is to be done for what was at a path."""
        self.queue.pop(path, None)
        self.settling.forget(path)
        self._retries_s.pop(path, None)
        self.settled_s.pop(path, None)

    def observe(self, seen: Seen, now_s: float, wall_ns: int | None, *, moved_in: bool) -> None:
        """A file was looked at of which nobody knows what it holds; `Settling.observe` says by what."""
        if self.puts_off(seen.path):
            return
        if self.settling.observe(seen, now_s, wall_ns, moved_in=moved_in) == "settled":
            self.enqueue(seen, now_s)
        else:  # it has changed while it waited for its turn
            self.queue.pop(seen.path, None)
            self.settled_s.pop(seen.path, None)

    def enqueue(self, seen: Seen, now_s: float) -> None:
        """A file has settled, and something is to be done for it."""
        self.settled_s.setdefault(seen.path, now_s)
        self._retries_s.pop(seen.path, None)
        if not self.puts_off(seen.path):
            self.queue[seen.path] = seen

    def postpone(self, seen: Seen, now_s: float) -> None:
        """A file is being written to after all."""
        self.settled_s.pop(seen.path, None)
        self.settling.postpone(seen, now_s)

    def retry(self, path: str, moment_s: float) -> None:
        """A file is to be looked at again then."""
        self._retries_s[path] = moment_s

    def due(self, now_s: float) -> list[str]:
        """What is to be looked at again now."""
        retries = [path for path, moment_s in self._retries_s.items() if moment_s <= now_s]
        for path in retries:
            del self._retries_s[path]
        return [*self.settling.due(now_s), *retries]

    def next_look_s(self) -> float:
        """When the next file is to be looked at again; infinite if none is."""
        return min([*self._retries_s.values(), self.settling.next_look_s()])

    def puts_off(self, path: str) -> bool:
        """Whether a file that was seen is in hand, and may enter the ledger as another one at any moment.

        Then it is looked at again once that is over.
        """
        if path in self.in_hand:
            self.in_hand[path] = True
        return path in self.in_hand

    def release(self, path: str) -> bool:
        """The work on a file has ended; whether it is to be looked at again."""
        return self.in_hand.pop(path, False)

    def settled_for_s(self, path: str, now_s: float) -> float | None:
        """How long ago a file had settled that is over now; None where that is not known."""
        settled_s = self.settled_s.pop(path, None)
        return None if settled_s is None else now_s - settled_s
