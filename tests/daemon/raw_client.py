"""A client that can send any bytes and need not read the replies."""

from __future__ import annotations

import socket
from typing import Any

import msgpack
import psutil

from whisperd.rpc.errors import WhisperdError
from whisperd_testing import LIMIT_S, RunningDaemon, until

__all__ = ["RawClient", "memory_bytes", "until"]

QUIET_S = 0.5


class RawClient:
    """A byte-level connection to a daemon. Use it as a context manager."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(daemon.socket)
        self.socket.settimeout(LIMIT_S)
        self._unpacker = msgpack.Unpacker(max_buffer_size=2**28, strict_map_key=False)
        self._next_id = 1000

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *messages: Any) -> None:
        """Send messages, packed; send bytes unchanged."""
        packed = (each if isinstance(each, bytes) else msgpack.packb(each) for each in messages)
        self.socket.sendall(b"".join(packed))

    def receive(self) -> Any:
        """Return the next message. Raises `EOFError` when the daemon has closed the connection."""
        while True:
            for message in self._unpacker:
                return message
            try:
                data = self.socket.recv(65536)
            except (ConnectionResetError, BrokenPipeError):
                raise EOFError from None
            if not data:
                raise EOFError
            self._unpacker.feed(data)

    def request(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Send a request and return its answer; drop messages in between. Raises `WhisperdError`."""
        self._next_id += 1
        self.send([0, self._next_id, method, [] if params is None else [params]])
        return self.answer(self._next_id)

    def answer(self, message_id: int) -> Any:
        """Return the answer to a request; drop the messages before it. Raises `WhisperdError`."""
        while True:
            match self.receive():
                case [1, answered, None, result] if answered == message_id:
                    return result
                case [1, answered, error, _] if answered == message_id:
                    raise WhisperdError.from_wire(error)

    def error(self) -> str:
        """Return the error code with which the daemon closes this connection; drop the messages before it."""
        while True:
            match self.receive():
                case [2, "error", [error]]:
                    code = error["code"]
                    break
        try:
            self.receive()
        except EOFError:
            return str(code)
        raise AssertionError("the connection is still open")

    def is_closed(self) -> bool:
        """Read until the daemon closes the connection, whatever it sends before."""
        try:
            while True:
                self.receive()
        except EOFError:
            return True

    def send_until_refused(self, data: bytes, least_bytes: int, most_bytes: int = 2**23) -> int:
        """Send the same data repeatedly until the daemon accepts nothing for a while; return the bytes sent.

        Before `least_bytes`, a daemon that accepts nothing for a while is merely slow.
        """
        sent_bytes = 0
        try:
            while sent_bytes < most_bytes:
                if sent_bytes >= least_bytes:
                    self.socket.settimeout(QUIET_S)
                sent_bytes += self.socket.send(data)
            raise AssertionError(f"the daemon accepted more than {most_bytes} bytes")
        except (TimeoutError, BrokenPipeError, ConnectionResetError):  # the last two: disconnected
            return sent_bytes
        finally:
            self.socket.settimeout(LIMIT_S)


def memory_bytes(daemon: RunningDaemon) -> int:
    """Return the resident memory of the daemon process itself."""
    return int(psutil.Process(daemon.pid).memory_info().rss)
