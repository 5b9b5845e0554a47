"""What the runtimes need of the rest of the daemon."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from anyio.lowlevel import checkpoint

from whisperd.rpc.events import Event
from whisperd.runtimes.history import Moment
from whisperd.settings import RuntimeSettings

__all__ = ["Surroundings"]


@dataclass(frozen=True)
class Surroundings:
    """What the manager needs of the rest of the daemon."""

    settings: Callable[[], RuntimeSettings]
    publish: Callable[[Event], None]
    vacated: Callable[[], Awaitable[None]] = checkpoint
    """Returns once nobody has memory who makes way for runtimes."""
    held_count_changed: Callable[[int], None] = lambda _count: None
    """Called when a runtime begins to be loaded and when it was unloaded, with how many are held."""
    remember: Callable[[str, Moment], None] = lambda _id, _moment: None
    """Keeps a change of status of a saved runtime, by its id."""
    clock: Callable[[], float] = time.monotonic
    """Seconds; stands still while the computer sleeps."""
