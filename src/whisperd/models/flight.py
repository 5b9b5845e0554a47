"""Share one pull in this process among all its callers (the single-flight pattern)."""

from __future__ import annotations

import anyio

from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError

__all__ = ["Flight"]


class Flight:
    """A pull in progress: one task pulls, the others follow it. If it is cancelled, a follower takes over."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.ended = anyio.Event()
        """Set when the pull has succeeded, failed or been cancelled."""
        self.error: WhisperdError | None = None
        self._listeners = [on_progress]
        self._last: Progress | None = None

    def report(self, progress: Progress) -> None:
        """Report progress to each distinct listener once."""
        self._last = progress
        for listener in dict.fromkeys(self._listeners):
            listener(progress)

    async def follow(self, on_progress: OnProgress) -> None:
        """Wait until the pull has ended; raise its error."""
        if self._last is not None and on_progress not in self._listeners:
            on_progress(self._last)
        self._listeners.append(on_progress)
        try:
            await self.ended.wait()
        finally:
            self._listeners.remove(on_progress)
        if self.error is not None:
            raise self.error.copy()
