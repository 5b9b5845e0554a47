"""A blocking MessagePack-RPC connection. Light: msgpack and sockets, nothing else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

import msgpack

from whisperd.paths import whisperctl_for
from whisperd.rpc.errors import WhisperdError, sendable
from whisperd.rpc.framing import FrameLimits, FrameReader
from whisperd.rpc.transport import Connected

__all__ = [
    "LIMITS",
    "PATIENCE_S",
    "PING_AFTER_S",
    "Wire",
    "closed",
    "lost",
    "not_answering",
    "not_sendable",
    "unreachable",
]

Map = dict[str, Any]

READ_BYTES = 256 * 1024
UNNUMBERED = 0
"""Events of subscriptions that have no number of their own."""
LAST_WORDS_TIMEOUT_S = 0.2
PING_AFTER_S = 5.0
"""A daemon that has been silent for so long, while it is listened to, is asked whether it is there."""
PATIENCE_S = 30.0
"""How long it may be silent. Work that takes long does not keep it from saying that it is there; where a
service manager holds the socket, it may be only just starting."""
# The daemon is ours; the limits only catch a socket that belongs to something else.
LIMITS = FrameLimits(max_frame_bytes=256 * 2**20, max_depth=32, max_items=50_000_000)


class Wire:
    """One connection to the daemon; not for use by several threads at once.

    Whatever waits for the daemon raises `daemon.not_answering` when that is silent although it was asked
    whether it is there: its process hangs, or was stopped.
    """

    def __init__(self, connection: Connected) -> None:
        self._socket = connection
        self._is_open = True
        self._is_closed = False
        self._reader = FrameReader(LIMITS)
        self._next_id = 0
        self._silent_s = 0.0
        self._awaited: set[int] = set()
        self._answers: dict[int, tuple[Any, Any]] = {}
        self._undos: dict[int, str] = {}
        self._events: dict[int, deque[Map]] = {UNNUMBERED: deque()}
        self._numbers = count(UNNUMBERED + 1)

    def request(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Ask and wait for the answer. Raises `WhisperdError`."""
        return self.answer(self.send(method, params))

    def send(self, method: str, params: dict[str, Any] | None = None) -> int:
        """Ask without waiting; `answer` takes the number that this returns."""
        if not self._is_open:
            raise self._gone()
        message_id = self._ask(method, params)
        self._awaited.add(message_id)
        return message_id

    def undo(self, message_id: int, method: str) -> None:
        """Have what a request begins undone as soon as its answer is read; nobody waits for that."""
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
            raise not_answering() from error
        except OSError as error:
            self._read_last_words()
            raise self._gone() from error
        except BaseException:
            self._hang_up()  # half a message may be out: nothing can follow it
            raise

    def answer(
        self, message_id: int, on_event: Callable[[Map], None] | None = None, number: int = UNNUMBERED
    ) -> Any:
        """Wait for the answer to a request; events under a number that come before it are passed on."""
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
        """A number under which events are kept from now on, if it is part of how a subscription is called."""
        number = next(self._numbers)
        self._events[number] = deque()
        return number

    def forget(self, number: int) -> None:
        """Keep no more of these events, and none that still come."""
        del self._events[number]

    def next_event(self, deadline_s: float | None = None, number: int = UNNUMBERED) -> Map | None:
        """The next event under a number; None once `deadline_s` (monotonic clock) is past."""
        events = self._events[number]
        while not events:
            remaining_s = None if deadline_s is None else deadline_s - time.monotonic()
            if remaining_s is not None and remaining_s <= 0:
                return None
            self._receive(remaining_s)
        return events.popleft()

    def close(self) -> None:
        """Hang up."""
        self._is_closed = True
        self._hang_up()

    def _hang_up(self) -> None:
        self._is_open = False
        self._socket.close()

    def _gone(self) -> WhisperdError:
        """Why there is nobody to ask: this end has hung up, or the other one."""
        return closed() if self._is_closed else lost()

    def _receive(self, timeout_s: float | None) -> None:
        """Take what comes within a time, or in a moment that this finds good.

        A daemon that is silent is asked whether it is there, and given up when it does not even say that.
        """
        if not self._is_open:
            raise self._gone()
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
                raise not_answering() from None
            return
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
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
                if message_id in self._awaited:  # and not given up
                    self._answers[message_id] = (error, result)
                elif (undo := self._undos.pop(message_id, None)) and error is None:
                    self._ask(undo, {"id": result["id"]})
            case [2, "event", [event]]:
                self._events[UNNUMBERED].append(event)
            case [2, "event", [number, [event]]] if number in self._events:
                self._events[number].append(event)
            case [2, "error", [error]]:  # the daemon says why it hangs up
                raise WhisperdError.from_wire(error)

    def _read_last_words(self) -> None:
        """The daemon hung up; it may have said why."""
        deadline_s = time.monotonic() + LAST_WORDS_TIMEOUT_S
        try:
            while time.monotonic() < deadline_s:
                self._receive(LAST_WORDS_TIMEOUT_S)
        except WhisperdError as error:
            if error.code != "daemon.connection_lost":
                raise


def unreachable(path: str) -> WhisperdError:
    """Nobody listens on the socket."""
    return WhisperdError(
        "daemon.unreachable",
        f"No daemon listens on {path}.",
        f"Start it with `{whisperctl_for(path)} daemon start`.",
    )


def not_answering() -> WhisperdError:
    """The daemon is there, and does nothing."""
    return WhisperdError(
        "daemon.not_answering",
        "The daemon does not answer: its process hangs, or was stopped.",
        "`whisperctl daemon restart --force` ends it, and starts one that goes on with detached jobs.",
    )


def lost() -> WhisperdError:
    """The daemon went away in mid-conversation."""
    return WhisperdError(
        "daemon.connection_lost",
        "The daemon closed the connection.",
        "Try again; `whisperctl daemon logs` says what happened to it.",
    )


def not_sendable(error: UnicodeEncodeError | OverflowError) -> WhisperdError:
    """A request holds what no message can hold; nothing of it was sent."""
    what = (
        f"The text {sendable(error.object):.100} is not UTF-8"
        if isinstance(error, UnicodeEncodeError)
        else "A number has more than 64 bits"
    )
    return WhisperdError(
        "rpc.invalid_params", f"{what}, and cannot be sent to the daemon.", "Give another one in its place."
    )


def closed() -> WhisperdError:
    """The program itself has closed its client."""
    return WhisperdError(
        "client.closed",
        "This client was closed.",
        "Ask before it is closed, or connect anew: `with whisperd.connect() as daemon:`.",
    )


def _foreign() -> WhisperdError:
    return WhisperdError(
        "daemon.foreign",
        "What listens on the socket is not whisperd.",
        "Check --socket, and the variable WHISPERD_SOCKET.",
    )
