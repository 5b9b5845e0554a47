"""Clients of the daemon: synchronous and asynchronous.

Imports `rpc`, the small modules outside the rooms, and `service_manager` only to start a daemon. It imports
as little as possible, because the command line starts through here and must start quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whisperd.client.asynchronous import AsyncClient, aconnect
    from whisperd.client.dictation import AsyncDictation, Dictation
    from whisperd.client.inputs import Input, model_name
    from whisperd.client.options import ComputeType, Device, JobOptions
    from whisperd.client.synchronous import Client, connect
    from whisperd.client.values import InOrder, Segment, Transcript, Word, end_of_job

__all__ = [
    "AsyncClient",
    "AsyncDictation",
    "Client",
    "ComputeType",
    "Device",
    "Dictation",
    "InOrder",
    "Input",
    "JobOptions",
    "Segment",
    "Transcript",
    "Word",
    "aconnect",
    "connect",
    "end_of_job",
    "model_name",
]

_HOMES = {
    "asynchronous": ("AsyncClient", "aconnect"),
    "dictation": ("AsyncDictation", "Dictation"),
    "inputs": ("Input", "model_name"),
    "options": ("ComputeType", "Device", "JobOptions"),
    "synchronous": ("Client", "connect"),
    "values": ("InOrder", "Segment", "Transcript", "Word", "end_of_job"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"whisperd.client.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
