"""The asynchronous client, on anyio."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, overload

import anyio
from anyio import to_thread
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams.memory import MemoryObjectSendStream

from whisperd.client.inputs import hello_params, input_params, is_path, option_params, pieces
from whisperd.client.nouns import Nouns
from whisperd.client.start import open_socket
from whisperd.client.values import InOrder, Segment, Transcript, end_of_job, is_over
from whisperd.client.wire import (
    PATIENCE_S,
    PING_AFTER_S,
    closed,
    lost,
    not_responding,
    not_sendable,
)
from whisperd.paths import socket_path
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.framing import TRUSTED_LIMITS
from whisperd.rpc.peer import Peer, PeerClosed, open_peer
from whisperd.rpc.stream import hang_up, open_stream
from whisperd.tasks import open_task_group

if TYPE_CHECKING:
    from typing import Unpack

    from whisperd.client.dictation import AsyncDictation
    from whisperd.client.inputs import Input
    from whisperd.client.options import JobOptions

__all__ = ["AsyncClient", "aconnect"]

Map = dict[str, Any]

CLEAN_UP_TIMEOUT_S = 5.0
"""The limit for cleaning up, so that an unresponsive daemon cannot keep a cancelled task from ending."""


@asynccontextmanager
async def aconnect(
    socket: str | None = None, *, start: bool = True, profile: str | None = None
) -> AsyncIterator[AsyncClient]:
    """Connect to the user's daemon, and start it if none is running and `start` is true.

    Takes the same arguments as `connect`. Jobs that are not detached are cancelled when the block ends.
    """
    path = socket_path(socket)
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(_greeted(path, start=start, profile=profile))
        except WhisperdError as error:
            if not (start and error.code == "daemon.connection_lost"):
                raise
            # That daemon was just ending: start another one.
            client = await stack.enter_async_context(_greeted(path, start=start, profile=profile))
        opened = stack.pop_all()
    try:
        yield client
    except BaseException:
        # Without that exception of the caller, which our task groups would wrap. Nor is it replaced with the
        # cancellation of what is closed, which anyio raises if asyncio's own `Task.cancel` came before.
        with suppress(anyio.get_cancelled_exc_class()):
            await opened.aclose()
        raise
    await opened.aclose()


@asynccontextmanager
async def _greeted(path: str, *, start: bool, profile: str | None) -> AsyncIterator[AsyncClient]:
    connected = await to_thread.run_sync(lambda: open_socket(path, start=start))
    async with await open_stream(connected, path) as stream:
        client = AsyncClient()
        peer = open_peer(stream, stream, client._on_notification, TRUSTED_LIMITS)
        async with peer as client._peer, open_task_group() as tasks:
            tasks.start_soon(client._end_events_with_connection)
            with anyio.move_on_after(PATIENCE_S):
                client.server = await client.request("session.hello", **hello_params(profile))
            if not client.server:
                raise not_responding(path)
            tasks.start_soon(client._end_with_silence, stream, path)
            try:
                yield client
            finally:
                client._reason = closed()
            tasks.cancel_scope.cancel()


class AsyncClient(Nouns[Awaitable[Map], Awaitable[list[Map]]]):
    """A connection to the daemon, created by `aconnect`. Any number of tasks may use it at once."""

    _peer: Peer

    def __init__(self) -> None:
        super().__init__(self.request)
        self.server: Map = {}
        """The daemon's `version` and `protocol`, from its greeting."""
        self._listeners: dict[int, MemoryObjectSendStream[Map]] = {}
        self._numbers = count(1)
        self._reason: WhisperdError | None = None

    async def request(self, method: str, **params: Any) -> Any:
        """Call any method of the wire protocol. Raises `WhisperdError`."""
        try:
            return await self._peer.request(method, params)
        except PeerClosed:
            raise self._why_closed() from None
        except (UnicodeEncodeError, OverflowError) as error:
            raise not_sendable(error) from error

    @overload
    def transcribe(
        self, input: Input, *, stream: Literal[False] = False, **options: Unpack[JobOptions]
    ) -> Coroutine[Any, Any, Transcript]: ...
    @overload
    def transcribe(
        self, input: Input, *, stream: Literal[True], **options: Unpack[JobOptions]
    ) -> AsyncGenerator[Segment, None]: ...
    def transcribe(
        self, input: Input, *, stream: bool = False, **options: Unpack[JobOptions]
    ) -> Coroutine[Any, Any, Transcript] | AsyncGenerator[Segment, None]:
        """Transcribe: await the result, or with `stream` iterate over it with `async for`.

        Works like `Client.transcribe`. Cancelling the waiting task cancels the job, and so does leaving the
        iteration early: at once with `contextlib.aclosing`, otherwise when the iterator is garbage-collected.
        """
        return self._segments(input, options) if stream else self._transcript(input, options)

    async def submit(self, input: Input, *, detach: bool = False, **options: Unpack[JobOptions]) -> str:
        """Submit a job and return its id. It is cancelled when this connection ends, unless detached."""
        source = await self._input(input)
        try:
            return await self._begin(source, options, detach=detach)
        except BaseException:
            if "upload" in source:
                await self._request_quietly("uploads.delete", id=source["upload"])
            raise

    @asynccontextmanager
    async def dictate(self, **options: Unpack[JobOptions]) -> AsyncIterator[AsyncDictation]:
        """Transcribe live speech: push audio in one task, and iterate over the events in another.

        Use it with `async with`, like `Client.dictate`. Leaving the block before the end cancels the job.
        """
        from whisperd.client.dictation import AsyncDictation

        dictation = AsyncDictation(self, await self._begin({"stream": True}, options))
        try:
            yield dictation
        finally:
            if not dictation.is_over:
                await self._request_quietly("jobs.cancel", id=dictation.id)

    async def follow(self, job: str) -> AsyncGenerator[Map, None]:
        """Yield the events of a job, from its beginning to its end."""
        send, receive = anyio.create_memory_object_stream[Map](math.inf)
        number = next(self._numbers)
        call = {"method": "event", "args": [number]}  # the number identifies this subscription's events
        with send, receive:
            self._listeners[number] = send
            subscription = None
            try:
                answer = self.request("events.subscribe", job=job, call=call)
                subscription = await self._begun(answer, "events.unsubscribe", "subscription")
                async for event in receive:
                    yield event
                    if await self._is_last(event, job):
                        return
                raise self._why_closed()
            finally:
                del self._listeners[number]
                if subscription is not None:
                    await self._request_quietly("events.unsubscribe", subscription=subscription)

    async def _on_notification(self, method: str, params: list[Any]) -> None:
        """Pass an event on to the subscription that it belongs to."""
        match method, params:
            case "event", [number, [event]] if number in self._listeners:
                self._listeners[number].send_nowait(event)
            case "error", [error]:
                self._reason = WhisperdError.from_wire(error)

    async def _end_events_with_connection(self) -> None:
        """When the connection ends, end every iteration over events."""
        await self._peer.closed.wait()
        for listener in self._listeners.values():
            listener.close()

    async def _end_with_silence(self, stream: ByteStream, path: str) -> None:
        """Disconnect from a daemon that sends nothing while it is awaited, not even an answer to a ping.

        Time in which this program itself was suspended does not count: messages may be waiting to be read.
        """
        silent_s, heard = 0.0, self._peer.heard
        async with open_task_group() as tasks:
            while silent_s < PATIENCE_S:
                await anyio.sleep(PING_AFTER_S)
                is_silent = self._peer.heard == heard and (self._peer.is_awaited or self._listeners)
                silent_s, heard = silent_s + PING_AFTER_S if is_silent else 0.0, self._peer.heard
                if silent_s == PING_AFTER_S:
                    tasks.start_soon(self._ping)
            self._reason = not_responding(path)
            await hang_up(stream)

    async def _ping(self) -> None:
        with suppress(WhisperdError):
            await self.request("session.ping")

    async def _transcript(self, input: Input, options: JobOptions) -> Transcript:
        job = await self.submit(input, **options)
        try:
            return await _transcript_of(await self.jobs.wait(job))
        except anyio.get_cancelled_exc_class():
            await self._request_quietly("jobs.cancel", id=job)
            raise

    async def _segments(self, input: Input, options: JobOptions) -> AsyncGenerator[Segment, None]:
        job = await self.submit(input, **options)
        has_ended, in_order = False, InOrder()
        try:
            async with aclosing(self.follow(job)) as events:
                async for event in events:
                    has_ended = end_of_job(event)
                    if event["type"] == "transcription.segment" and in_order.is_next(event["index"]):
                        yield Segment.from_event(event)
                    if has_ended and in_order.is_whole(event):
                        return
            for segment in in_order.rest(await _transcript_of(await self.jobs.wait(job))):
                yield segment
        finally:
            if not has_ended:
                await self._request_quietly("jobs.cancel", id=job)

    async def _begin(self, source: Map, options: JobOptions, *, detach: bool = False) -> str:
        """Submit a job and return its id."""
        answer = self.jobs.submit(source, option_params(options), detach=detach)
        return str(await self._begun(answer, "jobs.cancel"))

    async def _begun(self, answer: Awaitable[Map], undo: str, key: str = "id") -> Any:
        """Return the `key` of a job, an upload or a subscription. If cancelled meanwhile, wait a little
        longer for it, and call the method `undo` with it.
        """
        begun: Map = {}
        # In a task of its own, because asyncio's own `Task.cancel` ignores shields.
        taking, is_over = anyio.CancelScope(shield=True), anyio.Event()

        async def take() -> None:
            with taking:
                begun.update(await answer)
            is_over.set()

        try:
            async with open_task_group() as tasks:
                tasks.start_soon(take)
                try:
                    await is_over.wait()
                except anyio.get_cancelled_exc_class():
                    taking.deadline = anyio.current_time() + CLEAN_UP_TIMEOUT_S
                    raise
        except WhisperdError:
            await checkpoint_if_cancelled()  # the connection may have been cancelled as well
            raise
        except anyio.get_cancelled_exc_class():
            if begun:
                await self._request_quietly(undo, **{key: begun[key]})
            raise
        return begun[key]

    async def _is_last(self, event: Map, job: str) -> bool:
        if event["type"] == "events.missed":  # the last event may be among them
            return is_over(await self.jobs.show(job))
        return end_of_job(event)

    async def _request_quietly(self, method: str, **params: Any) -> None:
        """Send a cleanup request and ignore errors: without a daemon, there is nothing left to clean up."""
        with anyio.move_on_after(CLEAN_UP_TIMEOUT_S, shield=True):
            with suppress(WhisperdError):
                await self.request(method, **params)

    def _why_closed(self) -> WhisperdError:
        return self._reason or lost()

    async def _input(self, input: Input) -> Map:
        # A pipe or a disk may block a thread forever: abandon the thread when cancelled.
        if await to_thread.run_sync(is_path, input, abandon_on_cancel=True):
            return input_params(input)  # type: ignore[arg-type]
        upload = await self._begun(self.request("uploads.create"), "uploads.delete")
        remaining = pieces(input)
        try:
            while piece := await to_thread.run_sync(_next_piece, remaining, abandon_on_cancel=True):
                await self.request("uploads.append", id=upload, data=piece)
        except BaseException:
            await self._request_quietly("uploads.delete", id=upload)
            raise
        return {"upload": upload}


async def _transcript_of(wire: Map) -> Transcript:
    """Read the answer to `jobs.wait` in a thread, because that of a day of audio takes tenths of a second."""
    return await to_thread.run_sync(Transcript.from_wire, wire)


def _next_piece(remaining: Iterator[bytes]) -> bytes | None:
    return next(remaining, None)
