"""Telling a service manager how the daemon is: `NOTIFY_SOCKET`, as in sd_notify(3).

What is told is pure text; sending it never blocks and never fails: a manager that does not listen is no
reason not to work.
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
    """A datagram: a line for each assignment. What a value has of line ends becomes spaces."""
    lines = (f"{name}={' '.join(str(value).splitlines())}" for name, value in fields.items())
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def address_of(named: str) -> str | None:
    """Where to send to: a path, or with an `@` before it an abstract name. None for what is neither."""
    if named.startswith("/") and len(named) > 1:
        return named
    return "\0" + named[1:] if named.startswith("@") and len(named) > 1 else None


def watchdog_interval_s(environment: Mapping[str, str], pid: int) -> float | None:
    """How often to say that we are alive: twice in the time that the manager waits. None: it does not."""
    limit, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(pid))
    if whose != str(pid) or not (limit.isascii() and limit.isdecimal()) or len(limit) > 20 or int(limit) == 0:
        return None
    return int(limit) / 1e6 / 2


class Notifier:
    """Speaks to the service manager, if one wants to hear."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Takes its variables out of the environment: our children are not the service."""
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
        """Whether there is a manager that wants to hear."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Clients may connect; or the settings were read again."""
        self._send(READY=1, STATUS=status, MAINPID=os.getpid())

    def status(self, status: str) -> None:
        """What is being done, in a few words for a person."""
        self._send(STATUS=status)

    def reloading(self) -> None:
        """The settings are being read again; `ready` says that this is done."""
        self._send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self, status: str, within_s: float) -> None:
        """We are ending, and ask for so many seconds."""
        self._send(STOPPING=1, STATUS=status, EXTEND_TIMEOUT_USEC=int(within_s * 1e6))

    def alive(self) -> None:
        """The event loop turns."""
        self._send(WATCHDOG=1)

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, **fields: str | int) -> None:
        if self._socket is None or self._address is None:
            return
        with suppress(OSError):  # the manager is gone, or has too much to read
            self._socket.sendto(message(**fields), self._address)
