"""Clients of the daemon: synchronous and asynchronous. Imports `rpc`, the small things beside the rooms, and
as little as it can: the command line starts through here, and nobody should wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whisperd.client.asynchronous import AsyncClient, aconnect
    from whisperd.client.dictation import AsyncDictation, Dictation
    from whisperd.client.options import JobOptions
    from whisperd.client.synchronous import Client, connect
    from whisperd.client.values import Segment, Transcript, Word

__all__ = [
    "AsyncClient",
    "AsyncDictation",
    "Client",
    "Dictation",
    "JobOptions",
    "Segment",
    "Transcript",
    "Word",
    "aconnect",
    "connect",
]

_HOMES = {
    "AsyncClient": "asynchronous",
    "aconnect": "asynchronous",
    "AsyncDictation": "dictation",
    "Dictation": "dictation",
    "Client": "synchronous",
    "connect": "synchronous",
    "JobOptions": "options",
    "Segment": "values",
    "Transcript": "values",
    "Word": "values",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"whisperd.client.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
