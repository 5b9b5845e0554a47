"""Claims the state folder for one daemon, which stores its database, log and uploads there.

Meanwhile a file identifies that daemon, so that it can be found even if it hangs (`whisperd.running`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from socket import gethostname

import psutil
from filelock import FileLock

from whisperd.daemon.signals import HANG_UP
from whisperd.locks import take_over
from whisperd.paths import whisperctl_for
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.transport import is_listened_on
from whisperd.running import (
    LOCK,
    Running,
    daemon_process,
    forget_running,
    read_running,
    write_running,
)

__all__ = ["alert_once", "claim_state"]

log = logging.getLogger(__name__)


@asynccontextmanager
async def claim_state(folder: Path, socket: str, config: str | None = None) -> AsyncIterator[None]:
    """Be the only daemon that uses a state folder, until the block ends.

    The lock is released when this process ends, however it ends. If the file system does not support locks,
    none is held and the file is not written. Raises `state.in_use`.
    """
    lock = FileLock(folder / LOCK, mode=0o600)
    alert = alert_once(folder)

    def check() -> None:
        running = read_running(folder)
        if running and running.socket != socket and is_listened_on(running.socket):
            raise _in_use(folder, running, socket)
        alert()

    try:
        if not await take_over(lock, check):
            raise _in_use(folder, read_running(folder), socket)
    except OSError as error:
        log.warning("the state folder cannot be locked: %s", error)
    try:
        if lock.is_locked:
            forget_running(folder)  # that of a killed daemon: its process id may have been reused
            with suppress(OSError):  # on a full disk
                write_running(folder, Running(pid=os.getpid(), socket=socket, config=config))
        yield
        log.info("whisperd has ended")
    finally:
        if lock.is_locked:
            forget_running(folder)
        lock.release()


def alert_once(folder: Path) -> Callable[[], None]:
    """Return a function that makes the daemon of this folder check that clients can reach it.

    If its socket was deleted, as by the system at logout, or replaced, as by a service manager, it ends.
    """
    alerted = {os.getpid()}  # in another container, a daemon may have the same one

    def alert() -> None:
        running = read_running(folder)
        if running is None or running.host != gethostname() or running.pid in alerted:
            return
        alerted.add(running.pid)
        if HANG_UP is not None and (process := daemon_process(running.pid)) is not None:
            with suppress(psutil.Error):
                process.send_signal(HANG_UP)

    return alert


def _in_use(folder: Path, running: Running | None, socket: str) -> WhisperdError:
    if running is None:
        return WhisperdError(
            "state.in_use",
            f"Another daemon uses the state folder {folder}.",
            "Kill its process, `whisperd`, or set WHISPERD_STATE_DIR to another folder.",
        )
    whisperctl, pid = whisperctl_for(running.socket), running.pid
    if running.host != gethostname():
        message = f"A daemon on {running.host} already uses the state folder {folder}."
        fix = "Stop it there with `whisperctl daemon stop`, or set WHISPERD_STATE_DIR to another folder."
    elif running.socket == socket or not is_listened_on(running.socket):
        message = f"A daemon, process {pid}, uses the state folder {folder}, but its socket was deleted."
        fix = f"Kill it with `{whisperctl} daemon stop --force`; detached jobs continue in the next daemon."
    else:
        message = f"The daemon on {running.socket}, process {pid}, already uses the state folder {folder}."
        fix = (
            f"Use that one (`{whisperctl} daemon status`), stop it with `{whisperctl} daemon stop`,"
            " or set WHISPERD_STATE_DIR to another folder."
        )
    data = {"pid": pid, "socket": running.socket, "path": str(folder)}
    return WhisperdError("state.in_use", message, fix, data)
