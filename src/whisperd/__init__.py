"""whisperd: one speech-to-text daemon for everything on your desk.

    import whisperd

    with whisperd.connect() as daemon:
        print(daemon.transcribe("interview.mp3").text)

Everything here is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whisperd._version import __version__

if TYPE_CHECKING:
    from whisperd.client import AsyncClient, Client, JobOptions, Segment, Transcript, aconnect, connect
    from whisperd.rpc.errors import WhisperdError

__all__ = [
    "AsyncClient",
    "Client",
    "JobOptions",
    "Segment",
    "Transcript",
    "WhisperdError",
    "__version__",
    "aconnect",
    "connect",
]


def __getattr__(name: str) -> Any:
    if name == "WhisperdError":
        from whisperd.rpc.errors import WhisperdError

        return WhisperdError
    if name in __all__:
        from whisperd import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
