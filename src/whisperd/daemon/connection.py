"""One client's connection: receives its requests and sends responses and events, within limits.

Nothing that a client sends or fails to read affects other clients. An invalid request gets an error; an
undecodable stream closes the connection. While a client leaves too much unread, no more of its requests are
read, so that the memory held for it is bounded; if that lasts too long, it is disconnected.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import anyio
from anyio.abc import ByteStream, TaskGroup
from anyio.lowlevel import checkpoint

from whisperd.daemon.hub import Subscription
from whisperd.jobs.job import Job
from whisperd.rpc.errors import WhisperdError, unexpected_error
from whisperd.rpc.framing import FrameLimits, FrameReader
from whisperd.rpc.messages import Request, decode_message, encode_notification, encode_response
from whisperd.settings import LimitSettings
from whisperd.tasks import RepeatedEvent

__all__ = ["Connection"]

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
LAST_WORDS_S = 1.0
"""When a connection ends, pending output is sent within this time or discarded."""

Dispatch = Callable[[Request], Awaitable[Any]]
"""Returns the result of a request, or raises `WhisperdError`."""


class Connection:
    """A client's connection, from being accepted to being closed."""

    def __init__(self, stream: ByteStream, limits: LimitSettings, dispatch: Dispatch) -> None:
        self._stream = stream
        self._limits = limits
        self._dispatch = dispatch
        self._pending: dict[int, int] = {}  # size of each unanswered request, by its id
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._unread_added = RepeatedEvent()
        self._progress = RepeatedEvent()  # set whenever a request was answered or data was sent
        self._serving = anyio.CancelScope()
        self._is_finishing = False
        self._is_refused = False
        self._over = anyio.Event()
        self.subscriptions: dict[int, Subscription] = {}
        """By the number with which the client unsubscribes."""
        self.attached_jobs: WeakSet[Job] = WeakSet()
        """Jobs that are cancelled when the client disconnects."""
        self.profile: str | None = None
        """The profile that the client has chosen for its jobs."""
        self.wants_text_errors = False
        """Whether the client expects an error to be a string, not a map."""
        self.uploads: set[str] = set()
        """Uploads that no job has used yet."""
        self.uploading = anyio.Lock()
        """Held while a piece is stored, so that the pieces stay in the order in which they were sent."""

    async def serve(self) -> None:
        """Serve until the client disconnects or its stream is invalid; then cancel its pending requests."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, tasks.cancel_scope)
                with self._serving:
                    await self._read_and_answer()
                with anyio.move_on_after(LAST_WORDS_S):
                    await self._progress.wait_for(lambda: not self._unread_bytes)
                    if self._is_refused:
                        await self._discard()
                tasks.cancel_scope.cancel()
        finally:
            self._unread.clear()
            self._over.set()

    async def finish(self) -> None:
        """Close the connection because the daemon stops: requests still pending after a moment get
        `daemon.stopping`.
        """
        with anyio.move_on_after(LAST_WORDS_S):
            if self.subscriptions or self.attached_jobs:
                await self._over.wait()  # it will request the result of the job that has just ended
            await self._progress.wait_for(lambda: not self._pending)
        self._is_finishing = True
        self._serving.cancel()
        await self._over.wait()

    def offer(self, *parts: bytes) -> bool:
        """Queue an event, unless the client has left too much unread."""
        if self._unread_bytes + sum(map(len, parts)) > self._limits.max_unread_bytes:
            return False
        self._queue(b"".join(parts))
        return True

    async def _read_and_answer(self) -> None:
        async with anyio.create_task_group() as answers:
            try:
                await self._read(answers)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # the client has disconnected
            except WhisperdError as error:
                log.info("closing a connection: %s", error.code)
                self._queue(encode_notification("error", error.to_wire()))
                self._is_refused = True
            answers.cancel_scope.cancel()

    async def _discard(self) -> None:
        """Read until the client has disconnected: on a closed connection its next write would fail, after
        which some clients (such as those on Node.js) do not read the error.
        """
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            with suppress(NotImplementedError):  # by a named pipe
                await self._stream.send_eof()
            while True:
                await self._stream.receive(READ_BYTES)

    async def _read(self, answers: TaskGroup) -> None:
        limits = self._limits
        # Local, so that its memory is freed when the client disconnects: `self` waits for garbage collection.
        reader = FrameReader(
            FrameLimits(limits.max_frame_bytes, limits.max_frame_depth, limits.max_frame_items)
        )
        while True:
            for frame in reader.feed(await self._stream.receive(READ_BYTES)):
                message = decode_message(frame)
                if isinstance(message, Request):
                    self._accept(message, len(frame), answers)
                # Notifications are ignored, as are responses: the daemon sends no requests.
                await checkpoint()  # so that a flood of small messages does not block other clients
                await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        """Wait while the client has too much unread output, or too many bytes of unanswered requests.

        Raises `rpc.unread` if it reads nothing for too long.
        """
        while self._unread_bytes > self._limits.max_unread_bytes:
            with anyio.move_on_after(self._limits.unread_timeout_s):
                await self._progress.wait()
                continue
            raise _never_reads()
        await self._progress.wait_for(lambda: sum(self._pending.values()) <= self._limits.max_frame_bytes)

    def _accept(self, request: Request, size_bytes: int, answers: TaskGroup) -> None:
        if request.id in self._pending:
            error = WhisperdError(
                "rpc.duplicate_id",
                f"The message id {request.id} is in use by an unanswered request.",
                "Give each request its own id.",
            )
        elif len(self._pending) >= self._limits.max_pending_requests:
            error = WhisperdError(
                "rpc.too_many_requests",
                f"This connection already has {len(self._pending)} unanswered requests.",
                "Wait for responses, or raise `limits.max_pending_requests` in the settings.",
            )
        else:
            self._pending[request.id] = size_bytes
            answers.start_soon(self._answer, request)
            return
        self._queue(self._refusal(request, error))

    async def _answer(self, request: Request) -> None:
        try:
            self._queue(await self._response(request))
        except anyio.get_cancelled_exc_class():
            if self._is_finishing:
                self._queue(self._refusal(request, _stopping()))
            raise
        finally:
            del self._pending[request.id]
            self._progress.set()

    async def _response(self, request: Request) -> bytes:
        try:
            return encode_response(request.id, result=await self._dispatch(request))
        except WhisperdError as error:
            return self._refusal(request, error)
        except Exception as error:
            log.exception("%.50s failed unexpectedly", request.method)
            return self._refusal(request, unexpected_error(f"{request.method:.50} failed", error))

    def _refusal(self, request: Request, error: WhisperdError) -> bytes:
        return encode_response(request.id, error=error.to_text() if self.wants_text_errors else error)

    def _queue(self, data: bytes) -> None:
        self._unread.append(data)
        self._unread_bytes += len(data)
        self._unread_added.set()

    async def _write(self, scope: anyio.CancelScope) -> None:
        try:
            while True:
                while self._unread:
                    data = self._unread.popleft()
                    await self._stream.send(data)
                    self._unread_bytes -= len(data)
                    self._progress.set()
                for subscription in self.subscriptions.values():
                    subscription.catch_up()
                if not self._unread:
                    await self._unread_added.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            scope.cancel()  # the client has disconnected


def _never_reads() -> WhisperdError:
    return WhisperdError(
        "rpc.unread",
        "This connection has left too much output unread for too long.",
        "Read responses and events, or raise `limits.max_unread_bytes` or `limits.unread_timeout_s` in the "
        "settings.",
    )


def _stopping() -> WhisperdError:
    return WhisperdError(
        "daemon.stopping",
        "The daemon is stopping.",
        "Start it with `whisperctl daemon start`, then try again.",
    )
