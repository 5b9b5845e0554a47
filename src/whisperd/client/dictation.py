"""Live transcription from a client: audio goes in as it is spoken, events come out as it is recognised."""

from __future__ import annotations

from contextlib import aclosing, suppress
from threading import Lock
from typing import TYPE_CHECKING

from whisperd.client.inputs import option_params
from whisperd.client.values import Transcript, end_of_job
from whisperd.rpc.errors import WhisperdError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator
    from typing import Any

    from whisperd.client.asynchronous import AsyncClient
    from whisperd.client.options import JobOptions
    from whisperd.client.synchronous import Client

    Map = dict[str, Any]
    Samples = bytes | bytearray | memoryview

__all__ = ["AsyncDictation", "Dictation"]

PUSH_BYTES = 32_000
"""The size of one message: a second of audio. The daemon accepts up to ten seconds."""
LAST_WORDS_TIMEOUT_S = 5.0
"""How long a thread that uses a connection may take to receive its error, before the connection is closed."""


class Dictation:
    """A live job, created by `Client.dictate`. Use it as a context manager.

    One thread may `push` and `finish` while another iterates over the events and takes the `result`: each
    side has its own connection. Leaving the block before the end cancels the job; calls that other threads
    are in then raise an error, and iterations end.
    """

    def __init__(self, connect: Callable[[], Client], options: JobOptions) -> None:
        self._connect = connect
        self._speaking = connect()
        self._speaks, self._listens = Lock(), Lock()  # held while a connection is in use
        self._is_over = False
        self._is_closed = False
        try:
            self.listening = connect()
            """The connection that receives events: for the thread that iterates."""
            self.id = str(self._speaking.jobs.submit({"stream": True}, option_params(options))["id"])
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Dictation:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._is_over:
                # On a separate connection: the threads that use the others are notified and stop waiting.
                with suppress(WhisperdError), self._connect() as client:
                    client.jobs.cancel(self.id)
        finally:
            self._close()

    def push(self, pcm: Samples) -> None:
        """Send audio: 16 kHz, one channel, signed 16-bit little-endian, in pieces of any size.

        Waits while the daemon has half a minute of unprocessed audio. Raises `WhisperdError`: the job's
        error, if it is over.
        """
        for piece in _pieces(pcm):
            with self._speaks:
                self._speaking.jobs.push(self.id, piece)

    def finish(self) -> None:
        """End the audio: the rest is transcribed, and the job ends."""
        with self._speaks:
            self._speaking.jobs.finish(self.id)

    def __iter__(self) -> Generator[Map, None, None]:
        """Yield the events of the job until its end: `transcription.partial`, `transcription.segment`, …"""
        events = self.listening.follow(self.id)
        while (event := self._next(events)) is not None:
            self._is_over = self._is_over or end_of_job(event)
            yield event

    def _next(self, events: Iterator[Map]) -> Map | None:
        try:
            with self._listens:
                return next(events, None)
        except WhisperdError:
            if self._is_closed:
                return None
            raise

    def result(self) -> Transcript:
        """Wait for the end and return the transcript. Raises the job's error."""
        with self._listens:
            transcript = Transcript.from_wire(self.listening.jobs.wait(self.id))
        self._is_over = True
        return transcript

    def _close(self) -> None:
        self._is_closed = True
        _close(self._speaking, self._speaks)
        if hasattr(self, "listening"):
            _close(self.listening, self._listens)


class AsyncDictation:
    """A live job, created by `AsyncClient.dictate`.

    One task may `push` and `finish` while another iterates.
    """

    def __init__(self, client: AsyncClient, job: str) -> None:
        self._client = client
        self.id = job
        self.is_over = False

    async def push(self, pcm: Samples) -> None:
        """Send audio, like `Dictation.push`."""
        for piece in _pieces(pcm):
            await self._client.jobs.push(self.id, piece)

    async def finish(self) -> None:
        """End the audio, like `Dictation.finish`."""
        await self._client.jobs.finish(self.id)

    async def __aiter__(self) -> AsyncGenerator[Map, None]:
        """Yield the events of the job until its end, like `Dictation`."""
        async with aclosing(self._client.follow(self.id)) as events:
            async for event in events:
                self.is_over = self.is_over or end_of_job(event)
                yield event

    async def result(self) -> Transcript:
        """Wait for the end and return the transcript, like `Dictation.result`."""
        transcript = Transcript.from_wire(await self._client.jobs.wait(self.id))
        self.is_over = True
        return transcript


def _close(client: Client, in_use: Lock) -> None:
    is_free = in_use.acquire(timeout=LAST_WORDS_TIMEOUT_S)
    client.close()
    if is_free:
        in_use.release()


def _pieces(pcm: Samples) -> Iterator[bytes]:
    view = memoryview(pcm).cast("B")
    for offset in range(0, len(view), PUSH_BYTES):
        yield bytes(view[offset : offset + PUSH_BYTES])
