"""A stand-in for `systemctl --user` where no manager runs: a minimal manager, sufficient for our units.

It reads the units that whisperd writes, opens the socket, starts the daemon by the protocols
(`LISTEN_FDS`, `NOTIFY_SOCKET`), restarts it when a client connects, and logs the commands it receives.
`$STAND_IN` is its folder.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN"])
UNITS = Path(os.environ["XDG_CONFIG_HOME"]) / "systemd" / "user"
NAMES = ("whisperd.socket", "whisperd.service")
LIMIT_S = 120.0


def read_unit(name: str) -> dict[str, list[str]]:
    """Return the settings of a unit, including its drop-ins."""
    settings: dict[str, list[str]] = {}
    files = [UNITS / name, *sorted(UNITS.glob(f"{name}.d/*.conf"))]
    for line in "\n".join(file.read_text() for file in files).splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(key, []).append(value)
    return settings


def unquoted(line: str) -> list[str]:
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


class Holder:
    """Holds the socket and runs the daemon."""

    def __init__(self) -> None:
        (listen,) = read_unit("whisperd.socket")["ListenStream"]
        self.path = Path(listen.replace("%t", os.environ.get("XDG_RUNTIME_DIR", "")).replace("%%", "%"))
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(os.fspath(self.path))
        self.path.chmod(0o600)
        self.socket.listen(128)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        (FOLDER / "notify").unlink(missing_ok=True)
        self.notify.bind(os.fspath(FOLDER / "notify"))
        self.notify.settimeout(LIMIT_S)
        self.daemon: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            while True:
                self.start_daemon()
                assert self.daemon is not None
                self.daemon.wait()
                (FOLDER / "main_pid").unlink(missing_ok=True)
                select.select([self.socket], [], [])  # a client that connects starts it again
        finally:
            if self.daemon is not None and self.daemon.poll() is None:
                self.daemon.terminate()
                self.daemon.wait()
            (FOLDER / "main_pid").unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def start_daemon(self) -> None:
        unit = read_unit("whisperd.service")
        environment = dict(word.split("=", 1) for line in unit["Environment"] for word in unquoted(line))
        become = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        self.daemon = subprocess.Popen(
            [sys.executable, "-c", become, str(self.socket.fileno()), *unquoted(unit["ExecStart"][-1])],
            env={
                **os.environ,
                **environment,
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": "whisperd",
                "NOTIFY_SOCKET": os.fspath(FOLDER / "notify"),
            },
            pass_fds=(self.socket.fileno(),),
        )
        while b"READY=1" not in self.notify.recv(65_536):
            pass
        (FOLDER / "main_pid").write_text(str(self.daemon.pid))


def start() -> int:
    if not (FOLDER / "holder").exists():
        with (FOLDER / "log").open("ab") as log:
            holder = subprocess.Popen(
                [sys.executable, __file__, "--hold"], start_new_session=True, stdout=log, stderr=log
            )
        (FOLDER / "holder").write_text(str(holder.pid))
        deadline_s = time.monotonic() + LIMIT_S
        while not (FOLDER / "main_pid").exists():
            if holder.poll() is not None or time.monotonic() > deadline_s:
                (FOLDER / "holder").unlink()
                print("Job for whisperd.service failed.", file=sys.stderr)
                return 1
            time.sleep(0.01)
    return 0


def stop() -> int:
    file = FOLDER / "holder"
    if file.exists():
        pid = int(file.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + LIMIT_S
        while (FOLDER / "main_pid").exists() or _socket_path().exists():
            if time.monotonic() > deadline_s:
                return 1
            time.sleep(0.01)
        file.unlink()
    return 0


def _socket_path() -> Path:
    (listen,) = read_unit("whisperd.socket")["ListenStream"]
    return Path(listen.replace("%t", os.environ.get("XDG_RUNTIME_DIR", "")).replace("%%", "%"))


def enable(*, on: bool) -> int:
    for name in NAMES:
        for target in read_unit(name).get("WantedBy", []):
            link = UNITS / f"{target}.wants" / name
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            if on:
                link.symlink_to(UNITS / name)
            elif not any(link.parent.iterdir()):
                link.parent.rmdir()
    return 0


def main() -> int:
    arguments = sys.argv[1:]
    if arguments == ["--hold"]:
        Holder().run()
    with (FOLDER / "asked").open("a") as file:
        file.write(" ".join(arguments) + "\n")
    if (FOLDER / "no_bus").exists():
        print("Failed to connect to bus: No medium found", file=sys.stderr)
        return 1
    arguments.remove("--user")
    verb, rest = arguments[0], arguments[1:]
    if verb in ("daemon-reload", "reset-failed") or (verb == "show" and "--property=Version" in rest):
        return 0
    if (FOLDER / "broken").exists() and verb in ("enable", "start"):
        print("Job for whisperd.service failed.", file=sys.stderr)
        return 1
    if verb == "is-active":
        return 0 if (FOLDER / "main_pid").exists() else 3
    if verb == "enable":
        return enable(on=True) or start()
    if verb == "disable":
        return stop() or enable(on=False)
    if verb == "reload":
        return subprocess.run(
            unquoted(read_unit("whisperd.service")["ExecReload"][-1]), check=False
        ).returncode
    if verb == "status":
        print("whisperd.service - whisperd, speech to text")
        return 0 if (FOLDER / "main_pid").exists() else 3
    return {"start": start, "stop": stop}[verb]()


if __name__ == "__main__":
    sys.exit(main())
