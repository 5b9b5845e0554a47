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
"""
"""Replaces `python -m venv FOLDER`: the `python` in it, which is called for pip, runs the code in `PIP`."""


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_old_installation_survives_failed_attempts(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    python = tmp_path / "python"
    python.write_text(MAKE_ENVIRONMENT)
    python.chmod(0o755)

    def install(pip: str) -> bool:
        env = {**os.environ, "PYTHON": str(python), "PREFIX": str(tmp_path / "prefix"), "PIP": pip}
        command = ["sh", str(tmp_path / "scripts" / "install.sh")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return "Installed" in done.stdout

    installed = tmp_path / "prefix" / "share" / "whisperd" / "app" / "bin" / "python"
    assert install("exit 0 # the old one")
    for pip in ("kill -KILL $PPID", "exit 1", "kill -TERM $PPID"):
        assert not install(pip)
        assert pip.startswith("kill -KILL") or "the old one" in installed.read_text()
    assert install("exit 0 # the new one")
    assert "the new one" in installed.read_text()
    assert not installed.parent.parent.with_name("app.old").exists()
