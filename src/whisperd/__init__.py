"""whisperd: one speech-to-text daemon for everything on your desk.

    import whisperd

    with whisperd.connect() as daemon:
        print(daemon.transcribe("interview.mp3").text)

`Whisper` does the same without a daemon. Everything here is imported on first use.
"""

from __future__ import annotations

from whisperd._version import __version__

TYPE_CHECKING = False  # importing `typing` would take longer than everything else here
if TYPE_CHECKING:
    from typing import Any

    from whisperd.client import (
        AsyncClient,
        AsyncDictation,
        Client,
        Dictation,
        JobOptions,
        Segment,
        Transcript,
        Word,
        aconnect,
        connect,
    )
    from whisperd.library import (
        AsyncWhisper,
        Whisper,
        adownload_model,
        ainitialize,
        download_model,
        initialize,
    )
    from whisperd.progress import Progress
    from whisperd.rpc.errors import WhisperdError

__all__ = [
    "AsyncClient",
    "AsyncDictation",
    "AsyncWhisper",
    "Client",
    "Dictation",
    "JobOptions",
    "Progress",
    "Segment",
    "Transcript",
    "Whisper",
    "WhisperdError",
    "Word",
    "__version__",
    "aconnect",
    "adownload_model",
    "ainitialize",
    "connect",
    "download_model",
    "initialize",
]

_HOMES = {
    "Progress": "whisperd.progress",
    "WhisperdError": "whisperd.rpc.errors",
    **dict.fromkeys(
        ("AsyncWhisper", "Whisper", "adownload_model", "ainitialize", "download_model", "initialize"),
        "whisperd.library",
    ),
}
"""The module of each name; the others come from `whisperd.client`."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(_HOMES.get(name, "whisperd.client")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list({*globals(), *__all__})  # includes what is not imported yet
