"""The desktop is told of what was done in a watch, not more often than a person wants to hear."""

from __future__ import annotations

from typing import Final

import anyio

from whisperd.watch.actions import notify_desktop

__all__ = ["Desktop"]

INTERVAL_S: Final = 10.0


class Desktop:
    """Gathers what was done, and tells of it together."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._wake = anyio.Event()

    def note(self, name: str) -> None:
        """A recording was transcribed."""
        self._done.append(name)
        self._wake.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            done, self._done = self._done, []
            await notify_desktop("Transcribed", done[0] if len(done) == 1 else f"{len(done)} recordings")
            await anyio.sleep(INTERVAL_S)
