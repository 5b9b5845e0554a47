"""The functions that runtimes need from the rest of the daemon."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from anyio.lowlevel import checkpoint

from whisperd.rpc.events import Event
from whisperd.runtimes.history import StatusChange
from whisperd.settings import RuntimeSettings

__all__ = ["DaemonInterface"]


@dataclass(frozen=True)
class DaemonInterface:
    """The functions that the manager needs from the rest of the daemon."""

    settings: Callable[[], RuntimeSettings]
    publish: Callable[[Event], None]
    vacated: Callable[[], Awaitable[None]] = checkpoint
    """Waits until background work that yields to runtimes, such as calibration, has freed its memory."""
    held_count_changed: Callable[[int], None] = lambda _count: None
    """Called with the number of runtimes that are loading or loaded, whenever it changes."""
    remember: Callable[[str, StatusChange], None] = lambda _id, _change: None
    """Stores a status change of the saved runtime with this id."""
    clock: Callable[[], float] = time.monotonic
    """Seconds, excluding time during which the computer sleeps."""
