"""The end of what a child process writes to its standard error: for the log, and to explain its death."""

from __future__ import annotations

import codecs
import logging
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream

__all__ = ["KeptStderr"]

log = logging.getLogger(__name__)

KEPT_CHARACTERS: Final = 4000


class KeptStderr:
    """The end of what a process has written to its standard error."""

    def __init__(self, of: str) -> None:
        self._of = of
        self.text = ""
        self.since_answer = ""
        """What came since this was last emptied: earlier troubles the process has survived."""
        self.ended = anyio.Event()

    async def keep(self, stream: ByteReceiveStream) -> None:
        """Read until the process closes it."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            async for chunk in stream:
                text = decoder.decode(chunk)
                self.text = (self.text + text)[-KEPT_CHARACTERS:]
                self.since_answer = (self.since_answer + text)[-KEPT_CHARACTERS:]
                log.debug("%s: %s", self._of, text.rstrip())
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # as good as its end
        finally:
            self.ended.set()
