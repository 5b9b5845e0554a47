"""Sockets that the service manager opened before it started us: `LISTEN_FDS`, as in sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from itertools import zip_longest
from typing import Final

from whisperd.rpc.errors import WhisperdError

__all__ = ["SOCKET_NAME", "passed_files", "take_socket"]

FIRST_DESCRIPTOR: Final = 3
MOST_FILES: Final = 1024
SOCKET_NAME: Final = "whisperd"
"""`FileDescriptorName=` of our socket unit."""
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def passed_files(environment: Mapping[str, str], pid: int) -> dict[int, str | None]:
    """Return the file descriptors passed to the process `pid`, and their names if its unit sets any.

    Variables meant for another process are ignored.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return {}
    count = environment.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdecimal()) or len(count) > 9 or int(count) > MOST_FILES:
        return {}
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    named = environment.get("LISTEN_FDNAMES")
    return dict(zip_longest(descriptors, (named.split(":") if named else [])[: int(count)]))


def take_socket(
    environment: MutableMapping[str, str] = os.environ, pid: int | None = None
) -> socket.socket | None:
    """Take over the socket to listen on, if one was passed; child processes do not inherit it.

    A socket named `whisperd` is preferred. Raises `socket.not_passed` if the descriptor is not a listening
    Unix socket.
    """
    files = passed_files(environment, os.getpid() if pid is None else pid)
    for variable in _VARIABLES:  # child processes were passed nothing
        environment.pop(variable, None)
    if not files:
        return None
    chosen = next((one for one, name in files.items() if name == SOCKET_NAME), FIRST_DESCRIPTOR)
    for one in files:
        try:
            os.set_inheritable(one, False)
        except OSError as error:
            raise _not_a_socket(one, error.strerror or str(error)) from error
    try:
        passed = socket.socket(fileno=chosen)
    except OSError as error:
        raise _not_a_socket(chosen, error.strerror or str(error)) from error
    is_stream = (passed.family, passed.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    if not is_stream or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        passed.detach()
        raise _not_a_socket(chosen, "it is not a listening Unix stream socket")
    return passed


def _not_a_socket(descriptor: int, why: str) -> WhisperdError:
    return WhisperdError(
        "socket.not_passed",
        f"File descriptor {descriptor}, which the service manager passed, cannot be used: {why}.",
        "Check ListenStream= in the socket unit, or rewrite it with `whisperctl daemon install --force`.",
    )
