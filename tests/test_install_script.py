"""`make install`: the previous installation stays until the new one is complete."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "install.sh"
MAKE_ENVIRONMENT = """#!/bin/sh
mkdir -p "$3/bin" && printf '#!/bin/sh\\n%s\\n' "$PIP" > "$3/bin/python" && chmod +x "$3/bin/python"
printf '#!/bin/sh\\necho "$@" >> "$CALLS"\\n' > "$3/bin/whisperctl" && chmod +x "$3/bin/whisperctl"
"""
"""Replaces `python -m venv FOLDER`: the `python` in it, which is called for pip, runs the code in `PIP`."""


pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell script")


class Checkout:
    """A copy of the script, with a `PREFIX` and a Python of its own. `whisperctl` logs its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = folder / "prefix" / "share" / "whisperd" / "app"
        self.unit = folder / "config" / "systemd" / "user" / "whisperd.service"
        (folder / "scripts").mkdir()
        shutil.copy(SCRIPT, folder / "scripts")
        python = folder / "python"
        python.write_text(MAKE_ENVIRONMENT)
        python.chmod(0o755)

    def run(
        self, *options: str, pip: str = "exit 0", prefix: str = "prefix"
    ) -> subprocess.CompletedProcess[str]:
        """Run the script in this folder."""
        return subprocess.run(
            ["sh", "scripts/install.sh", *options],
            cwd=self.folder,
            env={
                **os.environ,
                "HOME": str(self.folder),
                "XDG_CONFIG_HOME": str(self.folder / "config"),
                "PYTHON": str(self.folder / "python"),
                "PREFIX": prefix,
                "PIP": pip,
                "CALLS": str(self.folder / "calls"),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, pip: str) -> bool:
        """Install; return whether that succeeded."""
        return "Installed" in self.run(pip=pip).stdout

    def calls(self) -> list[str]:
        """Return how whisperctl was called since the last time."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def add_service(self) -> None:
        """Write a unit of this installation."""
        self.unit.parent.mkdir(parents=True)
        self.unit.write_text(f"ExecStart={self.app}/bin/python -P -m whisperd\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_old_installation_survives_failed_attempts(checkout: Checkout) -> None:
    installed = checkout.app / "bin" / "python"
    assert checkout.install("exit 0 # the old one")
    for pip in ("kill -KILL $PPID", "exit 1", "kill -TERM $PPID"):
        assert not checkout.install(pip)
        assert pip.startswith("kill -KILL") or "the old one" in installed.read_text()
    assert checkout.install("exit 0 # the new one")
    assert "the new one" in installed.read_text()
    assert not checkout.app.with_name("app.old").exists()


def test_the_service_runs_again_even_after_a_failed_attempt(checkout: Checkout) -> None:
    checkout.install("exit 0")
    checkout.add_service()
    for pip in ("exit 0", "exit 1"):
        checkout.calls()
        assert checkout.run(pip=pip).returncode == int(pip[-1])
        assert [line.split()[-1] for line in checkout.calls()] == ["stop", "start"]


def test_the_prefix_may_be_relative(checkout: Checkout) -> None:
    checkout.install("exit 0")
    assert (checkout.folder / "prefix" / "bin" / "whisperctl").exists()  # the link does not dangle
    assert "Removed" in checkout.run("--remove").stdout
    assert not os.path.lexists(checkout.folder / "prefix" / "bin" / "whisperctl")


def test_an_installation_that_does_not_run_keeps_its_service(checkout: Checkout) -> None:
    """As after an upgrade of Python: only a program that runs can remove the service."""
    checkout.install("exit 0")
    checkout.add_service()
    program = checkout.app / "bin" / "whisperctl"
    works = program.read_text()
    program.write_text("#!/bin/sh\nexit 1\n")
    done = checkout.run("--remove")
    assert (done.returncode, "make install" in done.stderr, program.exists()) == (1, True, True)
    program.write_text(works)
    assert checkout.run("--remove").returncode == 0
    assert "--quiet daemon uninstall" in checkout.calls()
    assert not program.exists()
