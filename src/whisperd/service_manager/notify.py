"""Report the daemon's state to a service manager: `NOTIFY_SOCKET`, as in sd_notify(3).

Messages are built by pure functions; sending them never blocks and never fails, as the daemon works the same
if the manager does not listen.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Final

__all__ = ["Notifier", "address_of", "message", "watchdog_interval_s"]

log = logging.getLogger(__name__)

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def message(**fields: str | int) -> bytes:
    """Encode a datagram with one line per assignment. Line breaks in values become spaces."""
    lines = (f"{name}={' '.join(str(value).splitlines())}" for name, value in fields.items())
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def address_of(named: str) -> str | None:
    """Return the socket address: a path, or an abstract name if it begins with `@`; None otherwise."""
    if named.startswith("/") and len(named) > 1:
        return named
    return "\0" + named[1:] if named.startswith("@") and len(named) > 1 else None


def watchdog_interval_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Return how often to signal that we are alive: twice per watchdog timeout. None without a watchdog."""
    limit, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(pid))
    if whose != str(pid) or not (limit.isascii() and limit.isdecimal()) or len(limit) > 20 or int(limit) == 0:
        return None
    return int(limit) / 1e6 / 2


class Notifier:
    """Sends messages to the service manager, if it accepts them."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Remove the variables from the environment, since child processes are not the service."""
        self.watchdog_s = watchdog_interval_s(environment, os.getpid())
        self._socket: socket.socket | None = None
        self._address = address_of(environment.get("NOTIFY_SOCKET", ""))
        for variable in _VARIABLES:
            environment.pop(variable, None)
        if self._address is not None and hasattr(socket, "AF_UNIX"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    @property
    def is_heard(self) -> bool:
        """Whether a manager accepts messages."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Report that clients may connect, or that the settings were reloaded."""
        self._send(READY=1, STATUS=status, MAINPID=os.getpid())

    def status(self, status: str) -> None:
        """Report in a few words what the daemon is doing."""
        self._send(STATUS=status)

    def reloading(self) -> None:
        """Report that the settings are being reloaded; `ready` ends this."""
        self._send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self, status: str, within_s: float) -> None:
        """Report that the daemon is stopping, and ask for this many seconds."""
        self._send(STOPPING=1, STATUS=status, EXTEND_TIMEOUT_USEC=int(within_s * 1e6))

    def alive(self) -> None:
        """Report that the event loop is running."""
        self._send(WATCHDOG=1)

    def close(self) -> None:
        """Stop sending."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, **fields: str | int) -> None:
        if self._socket is None or self._address is None:
            return
        with suppress(OSError):  # the manager has exited, or its queue is full
            self._socket.sendto(message(**fields), self._address)
