"""Desktop notifications of finished recordings, at most one per `INTERVAL_S`."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

import anyio

from whisperd.watch.command import run_command

__all__ = ["Desktop"]

INTERVAL_S: Final = 10.0
TIMEOUT_S: Final = 10.0


class Desktop:
    """Collects finished recordings and announces them together."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._wake = anyio.Event()

    def note(self, name: str) -> None:
        """Announce a transcribed recording."""
        self._done.append(name)
        self._wake.set()

    async def run(self) -> None:
        """Show notifications until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            done, self._done = self._done, []
            text = done[0] if len(done) == 1 else f"{len(done)} recordings"
            if (words := _notification("Transcribed", text)) is not None:
                await run_command(words, TIMEOUT_S, {})
            await anyio.sleep(INTERVAL_S)


def _notification(title: str, text: str) -> list[str] | None:
    """Return the command that shows a notification; None without a desktop or a program for it."""
    if sys.platform == "darwin":
        script = "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
        return ["osascript", "-e", script, title, text]
    program = shutil.which("notify-send")
    if program is None or not (
        os.environ.get("DBUS_SESSION_BUS_ADDRESS") or os.environ.get("XDG_RUNTIME_DIR")
    ):
        return None
    # All in the summary: desktops interpret markup in the body, and a file name may contain links and images.
    return [program, "--app-name=whisperd", "--", f"{title} {text}"]
