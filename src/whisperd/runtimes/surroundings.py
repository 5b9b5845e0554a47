"""What the runtimes need of the rest of the daemon."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from whisperd.plugins import ModelFacts
from whisperd.progress import OnProgress
from whisperd.rpc.events import Event
from whisperd.runtimes.fallback import FailedVariant, VariantFailures
from whisperd.runtimes.history import Moment
from whisperd.runtimes.prepare import Prepared
from whisperd.runtimes.preset import Capabilities, RuntimePreset
from whisperd.runtimes.room import Tenants
from whisperd.runtimes.runtime import Runtime
from whisperd.settings import RuntimeSettings
from whisperd.worker.protocol import LoadParams

__all__ = ["Surroundings"]


@dataclass(frozen=True)
class Surroundings:
    """What the manager needs of the rest of the daemon."""

    prepare: Callable[[RuntimePreset, OnProgress, Sequence[FailedVariant], bool], Awaitable[Prepared]]
    """Gets everything that a worker needs, with progress; not of the variants that have failed in this load.
    Where it is to be loaded, nothing is downloaded that can never be. Raises `WhisperdError`."""
    capabilities: Callable[[RuntimePreset], Awaitable[Capabilities]]
    """What this computer can do, as far as it matters for a preset."""
    known_model: Callable[[str], Awaitable[str]]
    """The one name of a model. Raises `WhisperdError` for a name that means nothing."""
    facts: Callable[[str], Awaitable[ModelFacts | None]]
    """What a model says of itself that is one file in a backend's own format. Raises `WhisperdError`."""
    settings: Callable[[], RuntimeSettings]
    publish: Callable[[Event], None]
    make_room: Callable[[Tenants, Runtime, Prepared, LoadParams], Awaitable[None]]
    """Sees to it that a runtime that is about to be loaded fits into the memory. Raises `WhisperdError`."""
    held_count_changed: Callable[[int], None] = lambda _count: None
    """Called when a runtime begins to be loaded and when it was unloaded, with how many are held."""
    remember: Callable[[str, Moment], None] = lambda _id, _moment: None
    """Keeps a change of status of a saved runtime, by its id."""
    failures: VariantFailures = field(default_factory=VariantFailures)
    """Variants that failed while others worked."""
    clock: Callable[[], float] = time.monotonic
    """Seconds; stands still while the computer sleeps."""
