"""Connects to the daemon, and identifies the user at the other end.

Uses Unix sockets or, on Windows, named pipes (`whisperd.rpc.pipe`). Imports stay light: the client starts
here.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Final, Protocol

from whisperd.paths import MAX_SOCKET_PATH_BYTES
from whisperd.rpc.errors import WhisperdError

__all__ = ["Connected", "check_path_length", "connect_socket", "is_listened_on", "peer_user"]

# From the headers of macOS: getsockopt(SOL_LOCAL, LOCAL_PEERCRED) returns a `struct xucred`.
_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_XUCRED_BYTES: Final = 76

PROBE_TIMEOUT_S: Final = 1.0


class Connected(Protocol):
    """The part of a socket's interface that a client needs; a named pipe offers it as well."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of the data."""

    def recv(self, max_bytes: int, /) -> bytes:
        """Return the data that has arrived; empty once the daemon has disconnected. Raises `TimeoutError`."""

    def settimeout(self, timeout_s: float | None, /) -> None:
        """Set how long `recv` may wait."""

    def close(self) -> None:
        """Close the connection."""


def connect_socket(path: str) -> Connected:
    """Connect to the daemon's socket.

    Raises `OSError`, and `WhisperdError`: `socket.path_too_long`, and `socket.foreign` if another user
    listens there, who would otherwise receive the recordings.
    """
    if sys.platform == "win32":
        from whisperd.rpc.pipe import PipeConnection

        return PipeConnection(path)
    check_path_length(path)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        if peer_user(connection) not in (os.getuid(), None):
            raise _foreign(path)
    except BaseException:
        connection.close()
        raise
    return connection


def is_listened_on(path: str) -> bool:
    """Whether a process listens on a socket or named pipe, however busy. Blocks for at most a second."""
    if sys.platform == "win32":
        from whisperd.rpc import pipe

        return pipe.is_listened_on(path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # it is alive, though too busy to answer
    return True


def peer_user(connection: socket.socket) -> int | None:
    """Return the user id of the process at the other end; None if the system does not report it.

    For a client that is the process that listens, for a daemon the one that connected.
    """
    platform: str = sys.platform
    if platform == "linux":
        process_user_group = struct.Struct("i2I")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, process_user_group.size)
        return int(process_user_group.unpack(credentials)[1])
    if platform == "darwin":
        version_user = struct.Struct("2I")
        credentials = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(version_user.unpack_from(credentials)[1])
    return None


def check_path_length(path: str) -> None:
    """Raise `socket.path_too_long` if the kernel would reject the path."""
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise WhisperdError(
            "socket.path_too_long",
            f"The socket's path has {length} bytes, but the system allows {MAX_SOCKET_PATH_BYTES}: {path}.",
            "Set WHISPERD_SOCKET, or --socket, to a shorter path.",
        )


def _foreign(path: str) -> WhisperdError:
    return WhisperdError(
        "socket.foreign",
        f"Another user listens on {path}.",
        "Set WHISPERD_SOCKET to a path in a folder that you own.",
    )
