"""A pull that is under way in this process, and everybody who waits for it."""

from __future__ import annotations

import anyio

from whisperd.progress import OnProgress, Progress
from whisperd.rpc.errors import WhisperdError

__all__ = ["Flight"]


class Flight:
    """One task pulls; the others follow it. When it is cancelled, one of them takes its place."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.landed = anyio.Event()
        """Set when the pull has ended, in whatever way."""
        self.error: WhisperdError | None = None
        self._listeners = [on_progress]
        self._last: Progress | None = None

    def tell(self, progress: Progress) -> None:
        """Pass progress on to everybody, each once."""
        self._last = progress
        for listener in dict.fromkeys(self._listeners):
            listener(progress)

    async def follow(self, on_progress: OnProgress) -> None:
        """Wait until the pull has ended; raises its error."""
        if self._last is not None and on_progress not in self._listeners:
            on_progress(self._last)
        self._listeners.append(on_progress)
        try:
            await self.landed.wait()
        finally:
            self._listeners.remove(on_progress)
        if self.error is not None:
            raise self.error.copy()
