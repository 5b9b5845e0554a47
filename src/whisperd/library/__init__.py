"""whisperd as a library: the daemon's rooms inside a program, without a daemon process and without a socket.

    with whisperd.Whisper(model="base") as whisper:
        print(whisper.transcribe("interview.mp3").text)

`AsyncWhisper` opens the same service as the daemon (`whisperd.daemon.service`), with its state in a temporary
folder: the same jobs and scheduler, with decoders and workers as children of the program. `Whisper` runs it
in a thread. This room computes nothing itself.
"""

from __future__ import annotations

import logging

from whisperd.library.asynchronous import AsyncWhisper, adownload_model, ainitialize
from whisperd.library.setup import Engine
from whisperd.library.synchronous import Whisper, download_model, initialize
from whisperd.progress import Progress

__all__ = [
    "AsyncWhisper",
    "Engine",
    "Progress",
    "Whisper",
    "adownload_model",
    "ainitialize",
    "download_model",
    "initialize",
]

# The program decides whether to show log messages.
logging.getLogger("whisperd").addHandler(logging.NullHandler())
