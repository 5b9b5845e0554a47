"""The socket that the daemon listens on: one daemon for each, for its owner alone."""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketListener
from filelock import FileLock

from whisperd.locks import take_over
from whisperd.paths import make_private_folder, usual_socket_path, whisperctl_for
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.transport import check_path_length, is_listened_on, peer_user

__all__ = ["Listener", "UnixListener", "already_running", "claim_socket", "peer_is_owner"]

log = logging.getLogger(__name__)

BACKLOG = 1024
ACCEPT_PAUSE_S = 0.5

Handle = Callable[[ByteStream], Coroutine[Any, Any, None]]


class Listener(Protocol):
    """What listens: a Unix socket, or a named pipe."""

    async def serve(self, handle: Handle) -> None:
        """Hand each client to a task of its own; ends when this is closed and the last client is gone."""

    async def close(self) -> None:
        """Accept no more clients; whoever comes from now on finds nothing."""

    def unlink(self) -> None:
        """Let nobody find it any more. Harmless when that is so, and another daemon listens there."""


class UnixListener:
    """A socket that listens."""

    def __init__(self, path: str, accepting: SocketListener, *, is_ours: bool = True) -> None:
        """One that is not ours, because a service manager holds it as well, stays where it is."""
        self._path = Path(path)
        self._accepting = accepting
        self._inode = self._path.lstat().st_ino if is_ours else None

    async def serve(self, handle: Handle) -> None:
        """As `Listener` says."""
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    tasks.start_soon(handle, await self._accepting.accept())
                except anyio.ClosedResourceError:
                    return
                except anyio.BrokenResourceError as error:  # no file descriptor is left, most likely
                    log.warning("a client cannot be accepted: %s", error.__cause__)
                    await anyio.sleep(ACCEPT_PAUSE_S)

    async def close(self) -> None:
        """As `Listener` says."""
        self.unlink()
        await self._accepting.aclose()

    def unlink(self) -> None:
        """As `Listener` says."""
        with suppress(OSError):
            if self._inode and self._path.lstat().st_ino == self._inode:  # and not somebody else's by now
                self._path.unlink()
        self._inode = None  # whose socket comes next may have the same


@asynccontextmanager
async def claim_socket(path: str, passed: socket.socket | None = None) -> AsyncIterator[Listener]:
    """Listen on a Unix socket, or on Windows on a named pipe, as its only daemon, until the block ends.

    With a socket that a service manager `passed`, on that one, which stays when we end.

    A lock beside the socket is held until then, or until this process ends, however it does: so a
    socket that was left behind by a dead daemon is replaced, and a living one is never stolen.
    Raises `WhisperdError` (`daemon.already_running`, `daemon.hidden`, `socket.path_too_long`,
    `socket.not_private`, `socket.not_writable`, `socket.not_a_socket`).
    """
    if sys.platform == "win32":
        from whisperd.daemon.pipe_listener import claim_pipe

        async with claim_pipe(path) as pipe:
            yield pipe
        return
    check_path_length(path)
    folder = Path(path).parent
    _secure_folder(folder, is_usual=path == usual_socket_path())
    lock = FileLock(f"{path}.lock", mode=0o600)

    def check() -> None:
        if passed is None and is_listened_on(path):  # one that lives has the socket, unless that was passed
            raise already_running(path)

    try:
        if not await take_over(lock, check):
            raise _hidden(path)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        if passed is None:
            _remove_stale(path)
            listener = await _listen(path, folder)
        else:
            passed.setblocking(False)
            listener = UnixListener(path, await SocketListener.from_socket(passed), is_ours=False)
        try:
            yield listener
        finally:
            with anyio.CancelScope(shield=True):
                await listener.close()
    finally:
        lock.release()


def peer_is_owner(stream: ByteStream) -> bool:
    """Whether the process at the other end belongs to the user that this daemon runs as."""
    if sys.platform == "win32":
        return True  # the pipe's access list lets nobody else in
    user = peer_user(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - no Django here
    return user in (os.getuid(), None)  # where the system does not tell, the socket's mode has to do


async def _listen(path: str, folder: Path) -> UnixListener:
    unix_socket = socket.socket(socket.AF_UNIX)
    # Private from its first moment: the mask under which a socket is bound sets its mode.
    previous = os.umask(0o177)
    try:
        unix_socket.bind(path)
        unix_socket.listen(BACKLOG)
        return UnixListener(path, await SocketListener.from_socket(unix_socket))
    except OSError as error:
        unix_socket.close()
        raise _not_writable(folder, error) from error
    finally:
        os.umask(previous)


def _secure_folder(folder: Path, *, is_usual: bool) -> None:
    try:
        make_private_folder(folder)
        status = folder.stat()
        if is_usual and status.st_uid == os.getuid() and status.st_mode & 0o077:
            folder.chmod(0o700)  # it is ours alone: whatever it was, it is private now
            status = folder.stat()
    except OSError as error:
        raise _not_writable(folder, error) from error
    if status.st_uid not in (os.getuid(), 0):
        raise _not_private(folder, "it belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        raise _not_private(folder, "others can write to it")


def _remove_stale(path: str) -> None:
    """Remove the socket of a dead daemon; refuse to remove anything else, or a living one's."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise WhisperdError(
            "socket.not_a_socket",
            f"{path} is there already, and is not a socket.",
            "Choose another path for the socket.",
        )
    if is_listened_on(path):
        raise already_running(path)
    Path(path).unlink(missing_ok=True)


def already_running(path: str) -> WhisperdError:
    """`daemon.already_running`."""
    return WhisperdError(
        "daemon.already_running",
        f"A daemon is running on {path} already.",
        f"Use it, or end it with `{whisperctl_for(path)} daemon stop`.",
    )


def _hidden(path: str) -> WhisperdError:
    return WhisperdError(
        "daemon.hidden",
        f"A daemon holds {path}.lock, but its socket is gone.",
        f"End it with `{whisperctl_for(path)} daemon stop --force`, or by hand:"
        " `whisperd` in the list of your processes.",
    )


def _not_private(folder: Path, why: str) -> WhisperdError:
    return WhisperdError(
        "socket.not_private",
        f"The folder {folder} is not safe for a socket: {why}.",
        "Choose a folder of your own.",
    )


def _not_writable(folder: Path, error: OSError) -> WhisperdError:
    return WhisperdError(
        "socket.not_writable",
        f"No socket can be made in {folder}: {error.strerror or error}.",
        "Check the folder's permissions, or set WHISPERD_SOCKET to a path in another one.",
    )
