"""A user who installs the service, with a separate home and a stand-in for the systemd user manager."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from whisperd_testing import CACHE, LIMIT_S, TESTS, Finished

STAND_IN = Path(__file__).with_name("stand_in_systemctl.py")


class User:
    """A user with a separate home and a stand-in for the systemd user manager."""

    def __init__(self, folder: Path, short: Path) -> None:
        self.home = folder / "home"
        self.units = self.home / ".config" / "systemd" / "user"
        self.stand_in = short / "manager"
        self.runtime = short / "run"
        self.programs = folder / "bin"
        for made in (self.home, self.stand_in, self.runtime, self.programs):
            made.mkdir(mode=0o700, parents=True)
        systemctl = self.programs / "systemctl"
        systemctl.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
        systemctl.chmod(0o755)
        whisperctl = self.programs / "whisperctl"
        whisperctl.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m whisperd.cli.main "$@"\n')
        whisperctl.chmod(0o755)
        kept = ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")
        self.env = {
            **{name: value for name, value in os.environ.items() if name in kept},
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "STAND_IN": str(self.stand_in),
            "WHISPERD_NATIVE_DIR": str(CACHE / "native"),
            "WHISPERD_MODELS_DIR": str(CACHE / "models"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(TESTS / "backends"),
            "WHISPERD_PRELOAD": "0",
            "WHISPERD_CALIBRATE": "0",
        }
        self.env["PATH"] = f"{self.programs}{os.pathsep}{self.env['PATH']}"

    @property
    def socket(self) -> Path:
        """The socket of the daemon."""
        return self.runtime / "whisperd" / "daemon.sock"

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> Finished:
        """Run a program as this user."""
        done = subprocess.run(
            command,
            env={**self.env, **(env or {})},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ctl(self, *arguments: str, env: Mapping[str, str] | None = None) -> Finished:
        """Run whisperctl as this user."""
        return self.run(sys.executable, "-P", "-m", "whisperd.cli.main", *arguments, env=env)

    def asked(self) -> list[str]:
        """Return the command lines that the manager received."""
        file = self.stand_in / "asked"
        return file.read_text().splitlines() if file.exists() else []

    def close(self) -> None:
        """Stop the service and the daemon."""
        for broken in ("no_bus", "broken"):
            (self.stand_in / broken).unlink(missing_ok=True)
        if (self.units / "whisperd.socket").exists():
            self.run("systemctl", "--user", "stop", "whisperd.service")
        if self.socket.exists():
            self.ctl("daemon", "stop")
