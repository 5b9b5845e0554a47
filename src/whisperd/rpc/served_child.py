"""A child process that serves requests on its standard streams, as its parent sees it.

The other end is a `Stdio`. The end of what the child writes to its standard error is kept: for the log, and
to explain its death.
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

from whisperd.child import how_it_ended, kill, open_child
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
"""A process that closed its connection has this long to end, then it is killed."""


class ServedChild:
    """A child process and the connection with it. Make one with `open_served_child`."""

    def __init__(self, name: str, process: Process, peer: Peer) -> None:
        self.last_words = ""
        """The end of what it has written to its standard error."""
        self.since_answer = ""
        """What came of that since whoever asks it last emptied this: earlier troubles it has survived."""
        self.was_killed = False
        """Whether it did not end when it had closed its connection."""
        self.closed = peer.closed
        """Set as soon as the process is gone."""
        self.pid = process.pid
        self._name = name
        self._process = process
        self._peer = peer
        self._has_said_all = anyio.Event()

    async def request(self, method: str, params: object, into: type[T]) -> T:
        """As `Peer.request`. What it did not mean to raise is logged, with its traceback, if somebody waits.

        Raises `InvalidAnswer` for what is not of the type `into`, too.
        """
        try:
            answer = await self._peer.request(method, params)
        except WhisperdError as error:
            if error.code == UNEXPECTED:
                log.error("%s\n%s%s", error.message, self.last_words, error.data.pop("traceback", ""))
            raise
        try:
            return msgspec.convert(answer, into)
        except ValueError as error:
            raise InvalidAnswer(str(error)) from error

    def kill(self) -> None:
        """Kill it at once."""
        kill(self._process)

    @property
    def status(self) -> int | None:
        """Its exit status, once it has ended by itself."""
        return None if self.was_killed else self._process.returncode

    async def ended(self) -> str:
        """How it ended that has closed its connection; where it does not end it is killed."""
        with anyio.move_on_after(DEATH_TIMEOUT_S):
            await self._process.wait()
            await self._has_said_all.wait()
        if self._process.returncode is None:
            # If it is dying, it still ends as it would have: the system closes the pipes of a process before
            # it has all its memory back, which may take seconds.
            self.was_killed = True
            self.kill()
        return str(how_it_ended(await self._process.wait()))

    async def keep_stderr(self, stream: ByteReceiveStream) -> None:
        """Read until the process closes it."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            async for chunk in stream:
                text = decoder.decode(chunk)
                self.last_words = (self.last_words + text)[-KEPT_CHARACTERS:]
                self.since_answer = (self.since_answer + text)[-KEPT_CHARACTERS:]
                log.debug("%s: %s", self._name, text.rstrip())
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # as good as its end
        finally:
            self._has_said_all.set()


@asynccontextmanager
async def open_served_child(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    on_notification: OnNotification | None = None,
    limits: FrameLimits | None = None,
) -> AsyncIterator[ServedChild]:
    """Start a child; on leaving the block it is dead. See `open_child` and `open_peer`."""
    async with open_child(command, env=environment) as process, open_task_group() as tasks:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        async with open_peer(process.stdin, process.stdout, on_notification, limits) as peer:
            child = ServedChild(name, process, peer)
            tasks.start_soon(child.keep_stderr, process.stderr)
            yield child
        tasks.cancel_scope.cancel()
