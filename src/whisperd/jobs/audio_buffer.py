"""The incoming audio of a live job: bounded, so that a slow engine holds back the client that pushes."""

from __future__ import annotations

from typing import Final

import anyio

from whisperd.tasks import RepeatedEvent
from whisperd.worker.protocol import SAMPLE_RATE

__all__ = ["HELD_S", "MAX_PUSH_BYTES", "AudioBuffer", "AudioBufferClosed"]

_BYTES_PER_S: Final = 2 * SAMPLE_RATE

HELD_S: Final = 30.0
"""Pushed audio that is not consumed yet; a client that pushes more has to wait."""
MAX_PUSH_BYTES: Final = 10 * _BYTES_PER_S
"""Limit of one push: ten seconds."""


class AudioBufferClosed(Exception):
    """No more audio is accepted: the client finished it, or the job ended."""


class AudioBuffer:
    """Takes 16-bit little-endian mono samples at 16 kHz, in pieces of any size, even half a sample.

    Concurrent pushes are accepted in the order in which they were made.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_over = False  # no more audio is accepted
        self._pushing = anyio.Lock()  # fair: pushes proceed in order
        self._changed = RepeatedEvent()

    @property
    def held_s(self) -> float:
        """Seconds of audio waiting to be consumed."""
        return len(self._held) / _BYTES_PER_S

    async def push(self, pcm: bytes) -> None:
        """Append a piece of at most `MAX_PUSH_BYTES`; waits for room. Raises `AudioBufferClosed`."""
        async with self._pushing:
            self._check_open()
            await self._changed.wait_for(lambda: len(self._held) + len(pcm) <= HELD_S * _BYTES_PER_S)
            self._check_open()
            self._held += pcm
            self._changed.set()

    async def finish(self) -> None:
        """Accept no audio after pushes already waiting. Harmless if called again."""
        async with self._pushing:
            self.end()

    def end(self) -> None:
        """Accept no more audio from now on, not even from pushes already waiting."""
        self._is_over = True
        self._changed.set()

    async def take(self, most_bytes: int) -> bytes:
        """Wait for audio and return up to `most_bytes` of it, in whole samples. Empty means the end."""
        await self._changed.wait_for(lambda: len(self._held) > 1 or self._is_over)
        count = min(len(self._held), most_bytes) // 2 * 2
        taken = bytes(self._held[:count])
        del self._held[:count]
        self._changed.set()
        return taken

    def close(self) -> None:
        """Discard the audio because the job ended; waiting pushes raise `AudioBufferClosed`."""
        self._held.clear()
        self.end()

    def _check_open(self) -> None:
        if self._is_over:
            raise AudioBufferClosed
