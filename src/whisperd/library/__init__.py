"""whisperd inside a program: the rooms of the daemon, without the daemon and without a socket.

    with whisperd.Whisper(model="base") as whisper:
        print(whisper.transcribe("interview.mp3").text)

`AsyncWhisper` opens the very service that the daemon is made of (`whisperd.daemon.service`), with its
state in a temporary folder: the same jobs, scheduler, decoders and workers, as children of the program.
`Whisper` runs it in a thread. Nothing here computes anything itself.
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

# What is logged is for the program to show, if it wants to.
logging.getLogger("whisperd").addHandler(logging.NullHandler())
