"""A blocking MessagePack-RPC connection. Lightweight: it uses only msgpack and sockets."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

import msgpack

from whisperd.paths import whisperctl_for
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.rpc.framing import TRUSTED_LIMITS, FrameReader
from whisperd.rpc.transport import Connected

__all__ = [
    "PATIENCE_S",
    "PING_AFTER_S",
    "Wire",
    "closed",
    "lost",
    "not_responding",
    "not_sendable",
    "unreachable",
]

Map = dict[str, Any]

READ_BYTES = 256 * 1024
UNNUMBERED = 0
"""The number of events of subscriptions without a number."""
LAST_WORDS_TIMEOUT_S = 0.2
PING_AFTER_S = 5.0
"""How long the daemon may be silent, while it is awaited, before it is pinged."""
PATIENCE_S = 30.0
"""How long it may be silent altogether. Long work does not keep it from answering pings, but where a service
manager holds the socket, it may still be starting."""


class Wire:
    """One connection to the daemon; not for use by several threads at once.

    Every wait for the daemon raises `daemon.not_responding` if it does not even respond to a ping: its
    process hangs, or was stopped.
    """

    def __init__(self, connection: Connected, path: str) -> None:
        self._socket = connection
        self._path = path
        self._is_open = True
        self._is_closed = False
        self._reader = FrameReader(TRUSTED_LIMITS)
        self._next_id = 0
        self._silent_s = 0.0
        self._awaited: set[int] = set()
        self._answers: dict[int, tuple[Any, Any]] = {}
        self._undos: dict[int, str] = {}
        self._events: dict[int, deque[Map]] = {UNNUMBERED: deque()}
        self._numbers = count(UNNUMBERED + 1)

    def request(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Send a request and wait for the answer. Raises `WhisperdError`."""
        return self.answer(self.send(method, params))

    def send(self, method: str, params: dict[str, Any] | None = None) -> int:
        """Send a request without waiting; pass the returned number to `answer`."""
        if not self._is_open:
            raise self._why_closed()
        message_id = self._ask(method, params)
        self._awaited.add(message_id)
        return message_id

    def undo(self, message_id: int, method: str) -> None:
        """Call `method` to undo what a request began, as soon as its answer is read; do not wait for that."""
        self._awaited.discard(message_id)
        self._undos[message_id] = method
        if message_id in self._answers:
            self._take([1, message_id, *self._answers.pop(message_id)])

    def _ask(self, method: str, params: dict[str, Any] | None = None) -> int:
        message_id, self._next_id = self._next_id, self._next_id + 1
        self._send([0, message_id, method, [params] if params else []])
        return message_id

    def _send(self, message: list[Any]) -> None:
        try:
            data = msgpack.packb(message)
        except (UnicodeEncodeError, OverflowError) as error:
            raise not_sendable(error) from error
        self._socket.settimeout(PATIENCE_S)
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            self._hang_up()
            raise not_responding(self._path) from error
        except OSError as error:
            self._read_last_words()
            raise self._why_closed() from error
        except BaseException:
            self._hang_up()  # half a message may have been sent: nothing can follow it
            raise

    def answer(
        self, message_id: int, on_event: Callable[[Map], None] | None = None, number: int = UNNUMBERED
    ) -> Any:
        """Wait for the answer to a request, and pass on the events with this number that arrive before it."""
        try:
            while message_id not in self._answers:
                self._receive(None)
                while on_event is not None and self._events[number]:
                    on_event(self._events[number].popleft())
        finally:
            self._awaited.discard(message_id)
        error, result = self._answers.pop(message_id)
        if error is not None:
            raise WhisperdError.from_wire(error)
        return result

    def listen(self) -> int:
        """Return a number whose events are collected from now on; a subscription names it in its `call`."""
        number = next(self._numbers)
        self._events[number] = deque()
        return number

    def forget(self, number: int) -> None:
        """Discard the events with this number, and those that still arrive."""
        del self._events[number]

    def next_event(self, deadline_s: float | None = None, number: int = UNNUMBERED) -> Map | None:
        """Return the next event with a number; None once `deadline_s` (monotonic clock) has passed."""
        events = self._events[number]
        while not events:
            remaining_s = None if deadline_s is None else deadline_s - time.monotonic()
            if remaining_s is not None and remaining_s <= 0:
                return None
            self._receive(remaining_s)
        return events.popleft()

    def close(self) -> None:
        """Close the connection."""
        self._is_closed = True
        self._hang_up()

    def _hang_up(self) -> None:
        self._is_open = False
        self._socket.close()

    def _why_closed(self) -> WhisperdError:
        """Return why the connection has ended: this side closed it, or the other."""
        return closed() if self._is_closed else lost()

    def _receive(self, timeout_s: float | None) -> None:
        """Process what arrives within a time; None leaves the time to this method.

        A silent daemon is pinged, and given up if it does not respond to that either.
        """
        if not self._is_open:
            raise self._why_closed()
        is_asked = self._silent_s >= PING_AFTER_S
        limit_s = max((PATIENCE_S if is_asked else PING_AFTER_S) - self._silent_s, 0.001)
        waits_s = limit_s if timeout_s is None else min(timeout_s, limit_s)
        self._socket.settimeout(waits_s)
        try:
            data = self._socket.recv(READ_BYTES)
        except TimeoutError:
            self._silent_s += waits_s
            if not is_asked and self._silent_s >= PING_AFTER_S:
                self._ask("session.ping")
            elif self._silent_s >= PATIENCE_S:
                self._hang_up()
                raise not_responding(self._path) from None
            return
        except OSError as error:
            raise self._why_closed() from error
        if not data:
            raise self._why_closed()
        try:
            messages = [msgpack.unpackb(frame, strict_map_key=False) for frame in self._reader.feed(data)]
        except (WhisperdError, ValueError) as error:
            raise _foreign() from error
        self._silent_s = 0.0
        for message in messages:
            self._take(message)

    def _take(self, message: list[Any]) -> None:
        match message:
            case [1, message_id, error, result]:
                if message_id in self._awaited:  # else it was abandoned
                    self._answers[message_id] = (error, result)
                elif (undo := self._undos.pop(message_id, None)) and error is None:
                    self._ask(undo, {"id": result["id"]})
            case [2, "event", [event]]:
                self._events[UNNUMBERED].append(event)
            case [2, "event", [number, [event]]] if number in self._events:
                self._events[number].append(event)
            case [2, "error", [error]]:  # why the daemon closes the connection
                raise WhisperdError.from_wire(error)

    def _read_last_words(self) -> None:
        """Raise the daemon's reason for closing the connection, if it sent one."""
        deadline_s = time.monotonic() + LAST_WORDS_TIMEOUT_S
        try:
            while time.monotonic() < deadline_s:
                self._receive(LAST_WORDS_TIMEOUT_S)
        except WhisperdError as error:
            if error.code != "daemon.connection_lost":
                raise


def unreachable(path: str) -> WhisperdError:
    """Return the error that no daemon listens on the socket."""
    return WhisperdError(
        "daemon.unreachable",
        f"No daemon listens on {path}.",
        f"Start it with `{whisperctl_for(path)} daemon start`.",
    )


def not_responding(path: str) -> WhisperdError:
    """Return the error that a daemon listens on the socket but does not respond."""
    return WhisperdError(
        "daemon.not_responding",
        "The daemon does not respond: its process hangs, or was stopped.",
        f"Run `{whisperctl_for(path)} daemon restart --force` to kill it and start one that continues "
        "detached jobs.",
    )


def lost() -> WhisperdError:
    """Return the error that the daemon closed the connection."""
    return WhisperdError(
        "daemon.connection_lost",
        "The daemon closed the connection.",
        "Try again; `whisperctl daemon logs` shows what happened.",
    )


def not_sendable(error: UnicodeEncodeError | OverflowError) -> WhisperdError:
    """Return the error that a request contains a value that no message can hold; nothing was sent."""
    what = (
        f"The text {sendable(error.object):.100} is not UTF-8"
        if isinstance(error, UnicodeEncodeError)
        else "A number has more than 64 bits"
    )
    return WhisperdError(
        "rpc.invalid_params", f"{what} and cannot be sent to the daemon.", "Use another value."
    )


def closed() -> WhisperdError:
    """Return the error that the program itself has closed its client."""
    return WhisperdError(
        "client.closed",
        "This client was closed.",
        "Use it before it is closed, or connect again: `with whisperd.connect() as daemon:`.",
    )


def _foreign() -> WhisperdError:
    return WhisperdError(
        "daemon.foreign",
        "The program that listens on the socket is not whisperd.",
        "Check --socket and the variable WHISPERD_SOCKET.",
    )
