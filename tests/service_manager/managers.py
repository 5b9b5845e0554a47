"""A fake service manager: passes sockets to a daemon and receives its notifications."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from whisperd_testing import LIMIT_S, RunningDaemon

BECOME_DAEMON = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-P", "-m", *sys.argv[2:]])
"""
"""`LISTEN_PID` must be the process id of the daemon, which only the process that becomes it knows."""


class Manager:
    """Receives the notifications of a daemon."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(LIMIT_S)

    def next(self) -> dict[str, str]:
        """Return the next message."""
        return dict(line.split("=", 1) for line in self._socket.recv(65_536).decode().splitlines())

    def until(self, name: str) -> dict[str, str]:
        """Return the next message that sets a variable."""
        while name not in (said := self.next()):
            pass
        return said

    def is_silent(self, for_s: float) -> bool:
        """Whether no further message arrives; drops the messages received so far."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(65_536)
        except BlockingIOError:
            pass
        self._socket.settimeout(for_s)
        try:
            self._socket.recv(65_536)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(LIMIT_S)
        return False

    def close(self) -> None:
        self._socket.close()


@contextmanager
def hearing() -> Iterator[tuple[Manager, str]]:
    """Open a manager and the address at which it listens for notifications."""
    with tempfile.TemporaryDirectory(prefix="whisperd-") as folder:
        manager = Manager(f"{folder}/notify")
        try:
            yield manager, f"{folder}/notify"
        finally:
            manager.close()


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Open a socket as systemd does for a socket unit."""
    Path(path).parent.mkdir(mode=0o700, exist_ok=True)
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(path)
    opened.listen(128)
    try:
        yield opened
    finally:
        opened.close()
        Path(path).unlink(missing_ok=True)


def start_passing(
    daemon: RunningDaemon,
    passed: socket.socket,
    *,
    env: Mapping[str, str] | None = None,
    names: str = "whisperd",
) -> subprocess.Popen[bytes]:
    """Start a daemon with a socket as its file descriptor 3."""
    daemon.process = subprocess.Popen(
        [sys.executable, "-c", BECOME_DAEMON, str(passed.fileno()), "whisperd"],
        env={**daemon.env, "LISTEN_FDS": "1", "LISTEN_FDNAMES": names, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(passed.fileno(),),
    )
    return daemon.process


def end(daemon: RunningDaemon) -> None:
    """Stop a daemon whose socket remains."""
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
