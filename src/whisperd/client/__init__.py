"""Clients of the daemon: synchronous and asynchronous. Imports `rpc`, the small things beside the rooms, to
start a daemon `service_manager`, and as little as it can: the command line starts through here, and nobody
should wait for it.
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
    "AsyncClient": "asynchronous",
    "aconnect": "asynchronous",
    "AsyncDictation": "dictation",
    "Dictation": "dictation",
    "Client": "synchronous",
    "connect": "synchronous",
    "Input": "inputs",
    "model_name": "inputs",
    "ComputeType": "options",
    "Device": "options",
    "JobOptions": "options",
    "InOrder": "values",
    "Segment": "values",
    "Transcript": "values",
    "Word": "values",
    "end_of_job": "values",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"whisperd.client.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
