"""The parent's side of a child process that serves requests on its standard streams.

The other end is a `Stdio`. The last output of the child's standard error is kept for the log, and to explain
its death.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process

from whisperd.child import END_TIMEOUT_S, how_it_ended, kill, open_child
from whisperd.decodable import decodable
from whisperd.rpc.errors import UNEXPECTED, WhisperdError
from whisperd.rpc.framing import FrameLimits
from whisperd.rpc.messages import InvalidAnswer
from whisperd.rpc.peer import OnNotification, Peer, open_peer
from whisperd.tasks import open_task_group

__all__ = ["ServedChild", "open_served_child"]

log = logging.getLogger(__name__)
T = TypeVar("T")

KEPT_CHARACTERS: Final = 4000
DEATH_TIMEOUT_S: Final = 2.0
"""A process that closed its connection has this long to exit before it is killed."""


class ServedChild:
    """A child process and the connection to it. Create one with `open_served_child`."""

    def __init__(self, name: str, process: Process, peer: Peer) -> None:
        self.last_words = ""
        """The end of its output on standard error."""
        self.since_answer = ""
        """The part of it since the caller last cleared this; the child survived whatever caused the rest."""
        self.was_killed = False
        """Whether it had to be killed because it did not exit after it had closed its connection."""
        self.closed = peer.closed
        """Set as soon as the process has closed its connection."""
        self.pid = process.pid
        self._name = name
        self._process = process
        self._peer = peer
        self._stderr_ended = anyio.Event()

    async def request(self, method: str, params: object, into: type[T]) -> T:
        """Send a request as `Peer.request` does. Log an unexpected exception of the child, with its
        traceback.

        Also raises `InvalidAnswer` if the result is not of the type `into`.
        """
        try:
            answer = await self._peer.request(method, params)
        except WhisperdError as error:
            if error.code == UNEXPECTED:
                log.error("%s\n%s%s", error.message, self.last_words, error.data.pop("traceback", ""))
            raise
        try:
            return msgspec.convert(answer, decodable(into))
        except ValueError as error:
            raise InvalidAnswer(str(error)) from error

    def kill(self) -> None:
        """Kill it at once, and take its connection for closed: a driver or a disk may keep it from ending."""
        kill(self._process)
        self._peer.give_up()

    @property
    def status(self) -> int | None:
        """Its exit status, if it exited without being killed by us."""
        return None if self.was_killed else self._process.returncode

    async def ended(self) -> str:
        """Wait for the end of a process that has closed its connection, or kill it, and say how it ended."""
        with anyio.move_on_after(DEATH_TIMEOUT_S):
            await self._process.wait()
            await self._stderr_ended.wait()
        if self._process.returncode is None:
            # If it is already dying, its status stays the same: the system closes the pipes of a process
            # before it has reclaimed its memory, which may take seconds.
            self.was_killed = True
            self.kill()
            with anyio.move_on_after(END_TIMEOUT_S):
                await self._process.wait()
        # A process that waits for a driver may be unable to end, even if it is killed.
        return how_it_ended(self._process.returncode) or "signal SIGKILL"

    async def keep_stderr(self, stream: ByteReceiveStream) -> None:
        """Read standard error until the process closes it."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            async for chunk in stream:
                text = decoder.decode(chunk)
                self.last_words = (self.last_words + text)[-KEPT_CHARACTERS:]
                self.since_answer = (self.since_answer + text)[-KEPT_CHARACTERS:]
                log.debug("%s: %s", self._name, text.rstrip())
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # equivalent to its end
        finally:
            self._stderr_ended.set()


@asynccontextmanager
async def open_served_child(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    on_notification: OnNotification | None = None,
    limits: FrameLimits | None = None,
) -> AsyncIterator[ServedChild]:
    """Start a child, and kill it on leaving the block. See `open_child` and `open_peer`."""
    async with open_child(command, env=environment) as process, open_task_group() as tasks:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        async with open_peer(process.stdin, process.stdout, on_notification, limits) as peer:
            child = ServedChild(name, process, peer)
            tasks.start_soon(child.keep_stderr, process.stderr)
            yield child
        tasks.cancel_scope.cancel()
