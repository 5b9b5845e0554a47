"""The client's end of a named pipe, which Windows uses in place of Unix sockets. Imports stay light.

Imported on Windows only, so it is tested only by CI on Windows.
"""
# ruff: noqa: E402 - the imports after the assertion exist on Windows only

from __future__ import annotations

import sys

assert sys.platform == "win32"

import _winapi
import msvcrt
import os
import time
from typing import Final

from whisperd import win32
from whisperd.rpc.errors import WhisperdError

__all__ = ["PipeConnection", "is_listened_on"]

BUSY_TIMEOUT_MS: Final = 5_000
POLL_S: Final = 0.01

_ERROR_PIPE_BUSY: Final = 231
# A server that is an impostor can identify the client, but cannot impersonate it.
_SQOS_IDENTIFICATION: Final = 0x00100000 | 0x00010000


class PipeConnection:
    """The client's blocking end, with as much of a socket's interface as the client needs."""

    def __init__(self, path: str) -> None:
        """Connect. Raises `OSError`, and `WhisperdError` (`socket.foreign`)."""
        handle = _open(path)
        if win32.owner_of(handle) != win32.current_user():
            _winapi.CloseHandle(handle)
            raise _foreign(path)
        self._handle = handle
        self._descriptor = msvcrt.open_osfhandle(handle, os.O_BINARY)
        self._timeout_s: float | None = None

    def settimeout(self, timeout_s: float | None) -> None:
        """Set how long `recv` may wait."""
        self._timeout_s = timeout_s

    def sendall(self, data: bytes) -> None:
        """Send all of the data."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def recv(self, max_bytes: int) -> bytes:
        """Return the data that has arrived; empty once the daemon has disconnected. Raises `TimeoutError`."""
        deadline_s = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while not self._has_data():  # polled, because Ctrl-C could not interrupt a blocking read
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise TimeoutError
            time.sleep(POLL_S)
        return os.read(self._descriptor, max_bytes)

    def close(self) -> None:
        """Close the connection."""
        os.close(self._descriptor)

    def _has_data(self) -> bool:
        try:
            return bool(_winapi.PeekNamedPipe(self._handle, 1)[0])
        except BrokenPipeError:
            return True  # the next read reports it


def is_listened_on(path: str) -> bool:
    """Whether a server listens on this pipe."""
    try:
        _winapi.WaitNamedPipe(path, 1)
    except OSError:
        return False
    return True


def _open(path: str) -> int:
    while True:
        try:
            return _winapi.CreateFile(
                path,
                _winapi.GENERIC_READ | _winapi.GENERIC_WRITE,
                0,
                _winapi.NULL,
                _winapi.OPEN_EXISTING,
                _SQOS_IDENTIFICATION,
                _winapi.NULL,
            )
        except OSError as error:
            if error.winerror != _ERROR_PIPE_BUSY:
                raise
        _winapi.WaitNamedPipe(path, BUSY_TIMEOUT_MS)  # another client was just being accepted


def _foreign(path: str) -> WhisperdError:
    return WhisperdError(
        "socket.foreign",
        f"Another user listens on {path}.",
        "Set WHISPERD_SOCKET to the name of another pipe.",
    )
