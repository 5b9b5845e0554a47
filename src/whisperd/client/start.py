"""Connecting to the daemon, and starting it if none is running."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from whisperd.client.wire import unreachable
from whisperd.environment import daemon_environment
from whisperd.paths import make_private_folder
from whisperd.rpc.errors import WhisperdError
from whisperd.rpc.transport import Connected, connect_socket

if TYPE_CHECKING:
    import subprocess

__all__ = ["open_socket", "start_daemon"]

CONNECT_TIMEOUT_S = 60.0
SILENCE_TIMEOUT_S = 90.0
"""How long a daemon that we start may be silent: as long as its unit allows (`TimeoutStartSec=`)."""
OTHERS_START_TIMEOUT_S = 330.0
"""How long another client may take to start the daemon: three minutes for a hanging service manager, then as
long as we do to start its own and connect. A client that dies releases the lock, but one may be suspended."""
LAST_WORDS_BYTES = 4096


def open_socket(path: str, *, start: bool) -> Connected:
    """Return a connected socket; start the daemon if none listens and `start` is true.

    Raises `WhisperdError` (`daemon.unreachable`, `daemon.start_failed`, an error of the daemon, …).
    """
    try:
        return connect_socket(path)
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError) as error:
        if not start:
            raise unreachable(path) from error
    except OSError as error:
        raise _cannot_connect(path, error) from error
    return start_daemon(path)


def start_daemon(path: str) -> Connected:
    """Start the daemon unless another client just did, and connect to it.

    If several clients try at once, one of them starts it and the others wait for that.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(_start_lock(path), timeout=OTHERS_START_TIMEOUT_S, mode=0o600):
            try:
                return connect_socket(path)
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
                if not _start_service(path):
                    _start_process(path)
            return _connect_patiently(path)
    except Timeout:
        raise _start_failed(f"another client has tried for {OTHERS_START_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise _cannot_connect(path, error) from error


def _connect_patiently(path: str) -> Connected:
    # Retrying matters only if another daemon took the socket while ours was starting.
    deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return connect_socket(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() > deadline_s:
                raise unreachable(path) from error
            time.sleep(0.05)


def _start_service(path: str) -> bool:
    """Start the daemon through the service manager. Return False if it is not a service, or if that fails."""
    from whisperd.service_manager.install import installed_manager, run

    manager = installed_manager(path)
    if manager is None:
        return False
    try:
        run(manager.start, manager.hint)
    except WhisperdError:
        return False  # starting it ourselves works, or reports why not
    return True


def _start_process(path: str) -> None:
    try:
        _spawn(path)
    except OSError as error:  # such as too many files or processes: not an error of the socket
        raise _start_failed(error.strerror or str(error)) from error


def _spawn(path: str) -> None:
    """Start a daemon in its own session, and wait until it listens or reports why it cannot."""
    import subprocess
    from tempfile import TemporaryFile

    # Not a pipe: nothing reads it meanwhile, and plugins may print more than fits into one.
    with TemporaryFile() as printed:
        daemon = subprocess.Popen(
            [sys.executable, "-P", "-m", "whisperd", "--socket", path, "--announce"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=printed,
            start_new_session=True,
            creationflags=_creation_flags(),
            env=daemon_environment(os.environ),
            cwd="/" if os.name == "posix" else None,  # so that it keeps no file system busy
        )
        said = _announcement(daemon)
        if not said:
            printed.seek(max(0, os.fstat(printed.fileno()).st_size - LAST_WORDS_BYTES))
            last_words = printed.read().decode(errors="replace").strip().splitlines()
            raise _start_failed(last_words[-1] if last_words else f"exit status {daemon.returncode}")
    if (error := said.get("error")) and error["code"] != "daemon.already_running":
        raise WhisperdError.from_wire(error)


def _announcement(daemon: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return a daemon's announcement of its start. If it does not listen then, it has ended.

    A daemon that hangs is killed, because it would block the next one. Raises `daemon.start_failed`.
    """
    import json
    import threading

    hangs = threading.Event()

    def give_up() -> None:
        hangs.set()
        daemon.kill()

    timer = threading.Timer(SILENCE_TIMEOUT_S, give_up)
    timer.start()
    try:
        assert daemon.stdout is not None
        with daemon.stdout:
            said: dict[str, Any] = json.loads(daemon.stdout.readline() or "{}")
        if "socket" in said:
            _disown(daemon)
        else:
            daemon.wait()
    finally:
        timer.cancel()
    if not said and hangs.is_set():
        raise _start_failed(f"it did not respond for {SILENCE_TIMEOUT_S:.0f} s")
    return said


def _disown(daemon: subprocess.Popen[bytes]) -> None:
    """Let the daemon run on without us; if it ends before we do, it leaves no zombie behind."""
    if os.name == "posix":
        import threading

        threading.Thread(target=os.waitpid, args=(daemon.pid, 0), name="reap-daemon", daemon=True).start()
    daemon.returncode = 0  # so that Python does not warn about a child that is still running


def _creation_flags() -> int:
    """Return the Windows flags for no console window and no Ctrl-C of ours."""
    if sys.platform == "win32":
        import subprocess

        return subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    return 0


def _start_lock(path: str) -> str:
    """Return the file that a client locks to start the daemon; create its folder."""
    if sys.platform == "win32":  # there, a socket is not a file
        import tempfile

        return os.path.join(tempfile.gettempdir(), "whisperd.start")
    folder = os.path.dirname(path) or "."
    make_private_folder(folder)
    if os.stat(folder).st_uid not in (os.getuid(), 0):
        raise WhisperdError(
            "socket.not_private",
            f"The folder {folder} belongs to another user.",
            "Set WHISPERD_SOCKET to a path in a folder of your own.",
        )
    return f"{path}.start"


def _start_failed(reason: str) -> WhisperdError:
    return WhisperdError(
        "daemon.start_failed",
        f"The daemon could not be started: {reason}.",
        "Run `whisperd` in a terminal to see its output.",
    )


def _cannot_connect(path: str, error: OSError) -> WhisperdError:
    return WhisperdError(
        "socket.not_usable",
        f"The socket {path} cannot be used: {error.strerror or error}.",
        "Check the path and its permissions, or set WHISPERD_SOCKET to another one.",
    )
