"""Where the audio of a live job comes in: bounded, so that a slow engine holds back whoever pushes."""

from __future__ import annotations

from typing import Final

import anyio

from whisperd.tasks import RepeatedEvent
from whisperd.worker.protocol import SAMPLE_RATE

__all__ = ["HELD_S", "MAX_PUSH_BYTES", "AudioBuffer", "AudioBufferClosed"]

_BYTES_PER_S: Final = 2 * SAMPLE_RATE

HELD_S: Final = 30.0
"""Audio that was pushed and not listened to yet; who pushes more, waits."""
MAX_PUSH_BYTES: Final = 10 * _BYTES_PER_S
"""At most so much in one piece: ten seconds."""


class AudioBufferClosed(Exception):
    """No more audio is taken: it was finished, or the job is over."""


class AudioBuffer:
    """Takes 16-bit little-endian mono samples at 16 kHz, in pieces of any size; half a sample is kept.

    What is pushed is taken in the order in which it was pushed, however many push at once.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_over = False  # no more is taken
        self._pushing = anyio.Lock()  # it lets them through in the order in which they came
        self._changed = RepeatedEvent()

    @property
    def held_s(self) -> float:
        """Seconds that wait to be listened to."""
        return len(self._held) / _BYTES_PER_S

    async def push(self, pcm: bytes) -> None:
        """Take a piece of at most `MAX_PUSH_BYTES`; waits for room. Raises `AudioBufferClosed`."""
        async with self._pushing:
            self._check_open()
            await self._changed.wait_for(lambda: len(self._held) + len(pcm) <= HELD_S * _BYTES_PER_S)
            self._check_open()
            self._held += pcm
            self._changed.set()

    async def finish(self) -> None:
        """Nothing more comes behind what is being pushed. Harmless when it was said before."""
        async with self._pushing:
            self.end()

    def end(self) -> None:
        """Take nothing more from now on, also not what somebody waits to push."""
        self._is_over = True
        self._changed.set()

    async def take(self, most_bytes: int) -> bytes:
        """Wait for audio; whole samples, as much as there is up to `most_bytes`. Nothing is the end."""
        await self._changed.wait_for(lambda: len(self._held) > 1 or self._is_over)
        count = min(len(self._held), most_bytes) // 2 * 2
        taken = bytes(self._held[:count])
        del self._held[:count]
        self._changed.set()
        return taken

    def close(self) -> None:
        """The job is over; who waits to push learns it."""
        self._held.clear()
        self.end()

    def _check_open(self) -> None:
        if self._is_over:
            raise AudioBufferClosed
