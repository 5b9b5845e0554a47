"""The socket that the daemon listens on: one daemon per socket, accessible only to its owner."""

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
from whisperd.running import already_running

__all__ = ["Listener", "UnixListener", "claim_socket", "peer_is_owner"]

log = logging.getLogger(__name__)

BACKLOG = 1024
ACCEPT_PAUSE_S = 0.5

Handle = Callable[[ByteStream], Coroutine[Any, Any, None]]


class Listener(Protocol):
    """A listening Unix socket or named pipe."""

    async def serve(self, handle: Handle) -> None:
        """Handle each client in its own task, until this is closed and the last client has disconnected."""

    async def close(self) -> None:
        """Stop accepting clients, and remove the socket."""

    def unlink(self) -> None:
        """Remove the socket, unless that was done or another daemon has replaced it."""

    def is_reachable(self) -> bool:
        """Whether clients can connect: others have neither deleted nor replaced the socket."""


class UnixListener:
    """A listening Unix socket."""

    def __init__(self, path: str, accepting: SocketListener, *, is_ours: bool = True) -> None:
        """A socket that is not ours, because a service manager holds it as well, is not removed."""
        self._path = Path(path)
        self._accepting = accepting
        self._file = self._find_file() if is_ours else None

    async def serve(self, handle: Handle) -> None:
        """See `Listener`."""
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    tasks.start_soon(handle, await self._accepting.accept())
                except anyio.ClosedResourceError:
                    return
                except anyio.BrokenResourceError as error:  # most likely there are too many open files
                    log.warning("cannot accept a client: %s", error.__cause__)
                    await anyio.sleep(ACCEPT_PAUSE_S)

    async def close(self) -> None:
        """See `Listener`."""
        self.unlink()
        await self._accepting.aclose()

    def unlink(self) -> None:
        """See `Listener`."""
        with suppress(OSError):
            if self._file and self._find_file() == self._file:  # not another daemon's
                self._path.unlink()
        self._file = None  # the next socket at this path may have the same inode

    def is_reachable(self) -> bool:
        """See `Listener`."""
        try:
            return self._file is None or self._find_file() == self._file
        except OSError:
            return False

    def _find_file(self) -> tuple[int, int]:
        # The runtime directory of the next login is another file system, which may use the same inodes.
        status = self._path.lstat()
        return status.st_dev, status.st_ino


@asynccontextmanager
async def claim_socket(
    path: str, passed: socket.socket | None = None, alert: Callable[[], None] = lambda: None
) -> AsyncIterator[Listener]:
    """Listen on a Unix socket (on Windows, a named pipe) as its only daemon, until the block ends.

    If a service manager `passed` a socket, listen on that one, and leave it in place at the end. A daemon
    whose socket was deleted or replaced ends if it notices that; `alert` is called for this.

    A lock next to the socket is held until the block or this process ends, however it ends: so the socket of
    a dead daemon is replaced, but that of a live daemon is never stolen. Raises `WhisperdError`
    (`daemon.already_running`, `daemon.hidden`, `socket.path_too_long`, `socket.not_private`,
    `socket.not_writable`, `socket.not_a_socket`).
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
        if passed is None and is_listened_on(path):  # a live daemon has the socket, unless it was passed
            raise already_running(path)
        alert()

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
        return True  # the pipe's access control list admits no other user
    user = peer_user(stream.extra(SocketAttribute.raw_socket))  # noqa: S610 - no Django here
    return user in (os.getuid(), None)  # None: not reported by the system; the socket's mode must suffice


async def _listen(path: str, folder: Path) -> UnixListener:
    unix_socket = socket.socket(socket.AF_UNIX)
    # Private from the start: the umask while binding determines the socket's mode.
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
        status, link_owner = folder.stat(), folder.lstat().st_uid
        if is_usual and status.st_uid == link_owner == os.getuid() and status.st_mode & 0o077:
            folder.chmod(0o700)  # it is used only by whisperd, so it can be made private
            status = folder.stat()
    except OSError as error:
        raise _not_writable(folder, error) from error
    if not {status.st_uid, link_owner} <= {os.getuid(), 0}:
        raise _not_private(folder, "it belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        raise _not_private(folder, "other users can write to it")


def _remove_stale(path: str) -> None:
    """Remove the socket of a dead daemon; raise for anything else, or the socket of a live daemon."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise WhisperdError(
            "socket.not_a_socket",
            f"{path} exists, but is not a socket.",
            "Move it away, or set WHISPERD_SOCKET to another path.",
        )
    if is_listened_on(path):
        raise already_running(path)
    Path(path).unlink(missing_ok=True)


def _hidden(path: str) -> WhisperdError:
    return WhisperdError(
        "daemon.hidden",
        f"A daemon holds {path}.lock, but its socket was deleted.",
        f"Stop it with `{whisperctl_for(path)} daemon stop --force`, or kill its process, `whisperd`.",
    )


def _not_private(folder: Path, why: str) -> WhisperdError:
    return WhisperdError(
        "socket.not_private",
        f"The folder {folder} is not safe for a socket: {why}.",
        "Set WHISPERD_SOCKET to a path in a folder that only you can write to.",
    )


def _not_writable(folder: Path, error: OSError) -> WhisperdError:
    return WhisperdError(
        "socket.not_writable",
        f"No socket can be created in {folder}: {error.strerror or error}.",
        "Check the folder's permissions, or set WHISPERD_SOCKET to a path in another folder.",
    )
