"""A client's end of a named pipe, which Windows has where Unix has sockets. Light, as the client is.

Imported on Windows alone. It cannot be tried elsewhere: it is exercised by CI on Windows.
"""
# ruff: noqa: E402 - what follows the assertion exists on Windows alone

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
# A server that is not who it says it is may look at who we are, and do nothing in our name.
_SQOS_IDENTIFICATION: Final = 0x00100000 | 0x00010000


class PipeConnection:
    """A client's end that blocks, with as much of a socket's interface as the client needs."""

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
        """How long `recv` may wait."""
        self._timeout_s = timeout_s

    def sendall(self, data: bytes) -> None:
        """Send it all."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def recv(self, max_bytes: int) -> bytes:
        """What has come; nothing once the daemon is gone. Raises `TimeoutError`."""
        deadline_s = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while not self._has_data():  # because a read that waits could not be interrupted with Ctrl-C
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise TimeoutError
            time.sleep(POLL_S)
        return os.read(self._descriptor, max_bytes)

    def close(self) -> None:
        """Hang up."""
        os.close(self._descriptor)

    def _has_data(self) -> bool:
        try:
            return bool(_winapi.PeekNamedPipe(self._handle, 1)[0])
        except BrokenPipeError:
            return True  # reading says so


def is_listened_on(path: str) -> bool:
    """Whether a server waits for clients there."""
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
        _winapi.WaitNamedPipe(path, BUSY_TIMEOUT_MS)  # somebody else was just being accepted


def _foreign(path: str) -> WhisperdError:
    return WhisperdError(
        "socket.foreign",
        f"Another user listens on {path}.",
        "Set WHISPERD_SOCKET to the name of another pipe.",
    )
